"""`argosy-device plan`: what is measured against a real coordinator, what is chosen, and what is left behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from argosy_client.commands import app
from argosy_client.inference.backend import Material
from argosy_client.inference.backends.onnx_runtime import Fp32
from argosy_client.inference.folder import Version, keep_samples
from argosy_client.inference.placement.command import to_plan
from argosy_client.inference.placement.decision import decide
from argosy_client.inference.placement.line import Line, to_coordinator
from argosy_client.inference.placement.plan import read_plan
from argosy_client.inference.placement.profile import CANDIDATES, Profile, candidates, profile
from argosy_common.artefact.cut import Graph, Place
from tests.cuttable import EXITS, staged
from tests.models import windows
from tests.offloading import Bench, Board


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(tmp_path_factory.mktemp("c"))
    made.add(staged())
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("argosy_client.inference.placement.profile.SECONDS", 0.01)


def profiled(board: Board, version: Version, *, whole_ms: float, line: bool = True) -> Profile:
    """Measure a version that, it is said, takes this board `whole_ms`."""
    whole = Fp32().open(Material(version.onnx, version.manifest, version.samples, version.work))
    to = Line(to_coordinator(board.state)) if line else None
    try:
        return profile(version, whole, to, whole_ms=whole_ms, threads=1, unreachable="" if line else "no line")
    finally:
        if to is not None:
            to.close()


def run(board: Board, *words: str) -> Any:  # noqa: ANN401  (of JSON)
    done = CliRunner().invoke(app, ["plan", *words, "--state-dir", str(board.state), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_where_this_board_is_slow_the_fastest_other_way_is_measured_and_chosen(bench: Bench) -> None:
    board = bench.board()
    version = bench.deploy(board, "har:1")
    found = profiled(board, version, whole_ms=1000.0)
    assert [way.tensor for way in found.others] == ["b1", "sum", "b3", "y.p", "y.f", "x"]
    assert [way.bytes_up for way in found.others] == [16 * 32 * 4, 16 * 32 * 4, 16 * 16 * 4, 64, 64, 6 * 128 * 4]
    assert found.wire is not None
    assert found.wire.rtt_ms > 0
    for way in found.others:
        assert not way.refused
        assert way.total_ms is not None
        assert way.tail_ms is not None
        assert way.tail_ms > 0
        assert way.fallback_ms > 0
        assert (way.head_ms > 0) == (way.kind == "split")
    decision = decide(found.local, found.others)
    assert decision.way == min(found.others, key=lambda way: way.total_ms or 0)
    plan = to_plan(version, found, decision, None)
    assert (plan.way, plan.tensor) == (decision.way.kind, decision.way.tensor)
    assert plan.timeout_ms >= 20.0
    tight = to_plan(version, found, decision, 50.0)
    assert tight.timeout_ms == pytest.approx(max(0.1, 50.0 - decision.way.head_ms - decision.way.fallback_ms))


def test_where_this_board_is_fast_nothing_is_sent_that_cannot_gain_and_all_is_told(bench: Bench) -> None:
    board = bench.board()
    version = bench.deploy(board, "har:1")
    told = run(board, "har", "--apply")
    assert told["choice"] == "local"
    assert told["reason"]
    assert told["wire"]["uplink"] > 0
    assert {way["kind"] for way in told["ways"]} == {"local", "split", "remote"}
    assert [way["chosen"] for way in told["ways"]] == [True, *[False] * (len(told["ways"]) - 1)]
    plan = read_plan(version)
    assert plan is not None
    assert plan.way == "local"
    assert run(board, "har", "--forget") == {"model": "har:1", "forgotten": True}
    assert read_plan(version) is None


def test_a_person_sees_a_table_and_the_choice_in_a_sentence(bench: Bench) -> None:
    board = bench.board()
    version = bench.deploy(board, "har:1")
    done = CliRunner().invoke(app, ["plan", "har", "--state-dir", str(board.state)], env={"COLUMNS": "160"})
    assert done.exit_code == 0, done.output
    for words in ("tail ms", "b1", "remote", "there and back", "har:1: on this board, since"):
        assert words in done.stdout
    assert read_plan(version) is None, "nothing was applied"
    wrong = CliRunner().invoke(app, ["plan", "har", "--apply", "--forget", "--state-dir", str(board.state)])
    assert wrong.exit_code == 2


def test_without_a_coordinator_the_choice_is_local_and_says_why(bench: Bench, tmp_path: Path) -> None:
    off = Bench(tmp_path / "off", enabled=False)
    try:
        off.add(staged())
        board = off.board()
        version = off.deploy(board, "har:1")
        told = run(board, "har")
        assert told["choice"] == "local"
        assert "switched off" in told["reason"]
        assert all(way["total_ms"] is None for way in told["ways"][1:])
    finally:
        off.close()
    found = profiled(board, version, whole_ms=1000.0)
    assert "connection refused" in found.unreachable
    (board.state / "enrolment.json").unlink()
    assert decide(found.local, found.others, unreachable=found.unreachable).way == found.local
    assert profiled(board, version, whole_ms=1000.0).unreachable
    assert profiled(board, version, whole_ms=1000.0, line=False).unreachable == "no line"


def test_a_coordinator_that_answers_otherwise_is_not_chosen(bench: Bench) -> None:
    board = bench.board()
    version = bench.deploy(board, bench.add(staged(seed=3)))
    wrong = version.manifest.onnx.model_copy(update={"digest": bench.store.models.get("har:1").onnx_digest})
    manifest = version.manifest.model_copy(update={"onnx": wrong})
    bench.registry._verified[version.manifest.reference] = manifest
    found = profiled(board, version, whole_ms=1000.0)
    assert all("golden inputs are wrong" in way.refused for way in found.others)
    assert decide(found.local, found.others).way == found.local


def test_exits_are_measured_over_the_inputs_that_this_board_has_seen(bench: Bench) -> None:
    board = bench.board()
    reference = bench.add(staged(seed=5), exits=EXITS, exit_confidence=0.6)
    version = bench.deploy(board, reference)
    keep_samples(version.path.parent, windows(20, seed=2) * np.linspace(0.1, 9, 20, dtype=np.float32)[:, None, None])
    found = profiled(board, version, whole_ms=1000.0)
    assert list(found.exits)[-1] == "final"
    assert sum(found.exits.values()) == pytest.approx(1.0)
    assert found.exits["e1"] > 0
    assert found.whole_ms == 1000.0
    assert found.local.head_ms < 1000.0, "the mean, with exits"
    shares = {way.tensor: way.share for way in found.others}
    assert shares["b1"] == pytest.approx(1.0 - found.exits["e1"])
    assert shares["sum"] == pytest.approx(found.exits["final"])
    assert shares["x"] == 1.0, "who sends the input lets no exit answer before"


@given(sizes=st.lists(st.integers(1, 6), max_size=30))
def test_few_places_are_measured_those_that_others_cannot_beat_first(sizes: list[int]) -> None:
    places = [Place(f"t{depth}", (size,), "float32", depth) for depth, size in enumerate(sizes)]
    chosen = candidates(places)
    assert len(chosen) <= CANDIDATES
    assert [place.depth for place in chosen] == sorted({place.depth for place in chosen})
    assert all(place.depth > 0 for place in chosen)
    for left in (each for each in places[1:] if each not in chosen):
        better = [each for each in chosen if each.size <= left.size]
        assert len(chosen) == CANDIDATES
        assert better


def test_candidates_of_a_real_graph_lie_between_its_blocks() -> None:
    places = Graph(staged()).places("y")
    assert [place.tensor for place in candidates(places)] == ["b1", "sum", "b3", "y.p", "y.f"]
    assert [place.tensor for place in candidates(places, most=3)] == ["b1", "b3", "y.p"]
