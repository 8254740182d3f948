from __future__ import annotations

import json
import math
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.report import Bar, Benchmark, Options, main


def _measure(bench: Benchmark) -> None:
    with bench.progress("sizes", 2) as step:
        step("small")
        bench.row(size_mb=0.1, seconds=0.02, peer="native")
    bench.bar("overhead_s", 0.02, "<= 0.1", against="native, same minute")
    bench.bar("ratio", 7, ">= 100", against="native, same minute")
    if bench.quick:
        bench.left_out("25 and 100 MB")
    bench.could_not_run("https", "no server here")


def test_json_is_one_object_alone_on_stdout_in_the_form_of_the_specification(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main("sample", "About.", _measure, arguments=["--json", "--quick"]) == 0
    told = capsys.readouterr()
    (line,) = told.out.splitlines()
    found = json.loads(line)
    assert list(found) == ["name", "date", "machine", "rows", "bars"]
    assert found["name"] == "sample"
    assert datetime.fromisoformat(found["date"]).tzinfo is not None
    assert set(found["machine"]) == {"cpu", "cores", "python", "versions"}
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["versions"]["flwr"]
    assert found["bars"] == [
        {"id": "overhead_s", "value": 0.02, "goal": "<= 0.1", "holds": True, "against": "native, same minute"},
        {"id": "ratio", "value": 7.0, "goal": ">= 100", "holds": False, "against": "native, same minute"},
    ]


def test_what_was_left_out_and_what_could_not_run_stand_in_the_rows_and_in_the_text(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main("sample", None, _measure, arguments=["--json", "--quick"])
    told = capsys.readouterr()
    assert json.loads(told.out)["rows"] == [
        {"size_mb": 0.1, "seconds": 0.02, "peer": "native"},
        {"left_out": "25 and 100 MB"},
        {"peer": "https", "could_not_run": "no server here"},
    ]
    assert "25 and 100 MB" in told.err
    assert "no server here" in told.err


def test_without_flags_people_read_a_table_and_no_json(capsys: pytest.CaptureFixture[str]) -> None:
    main("sample", None, _measure, arguments=[])
    told = capsys.readouterr()
    assert "size_mb" in told.out
    assert "overhead_s" in told.out
    assert "NO" in told.out
    assert "{" not in told.out
    assert "Left out" not in told.out


def test_rows_of_different_columns_are_shown_without_loss(capsys: pytest.CaptureFixture[str]) -> None:
    bench = Benchmark("sample", Options())
    bench.row(alpha=1)
    bench.row(beta="two", gamma=None)
    bench.show()
    told = capsys.readouterr().out
    assert all(word in told for word in ("alpha", "beta", "gamma", "two"))


def test_a_row_turns_what_json_cannot_say_into_null() -> None:
    bench = Benchmark("sample")
    bench.row(seconds=math.nan, ratio=math.inf, count=3)
    assert bench.rows == [{"seconds": None, "ratio": None, "count": 3}]


@pytest.mark.parametrize("goal", ["about 3", "<=3", "<= three", "", "=> 3"])
def test_a_goal_that_is_no_comparison_is_refused(goal: str) -> None:
    with pytest.raises(ValueError, match="goal"):
        Bar("x", 1.0, goal, "y")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        Bar("x", value, "<= 1", "y")


@given(value=st.integers(-1000, 1000), limit=st.integers(-1000, 1000))
def test_a_bar_holds_exactly_when_its_comparison_is_true(value: int, limit: int) -> None:
    held = {sign: Bar("x", value, f"{sign} {limit}", "y").holds for sign in ("<=", ">=", "<", ">", "==")}
    assert held == {
        "<=": value <= limit,
        ">=": value >= limit,
        "<": value < limit,
        ">": value > limit,
        "==": value == limit,
    }
