"""Together against alone: the baseline, the summary and the picture."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from alone import alone_accuracy, app_config
from report import plot, summary, summary_text

from tests.examples.conftest import EXAMPLES

HISTORY = [{"round": number, "accuracy": accuracy} for number, accuracy in enumerate([0.1, 0.5, 0.9, 0.92, 0.94, 0.96])]
ALONE = {1: 0.7, 2: 0.8}
PNG = b"\x89PNG\r\n\x1a\n"


def test_the_summary_means_the_last_rounds_and_the_range_alone() -> None:
    result = summary(HISTORY, ALONE)
    assert result["together"]["accuracy"] == pytest.approx(0.844)
    assert result["rounds"] == 5
    assert (result["alone"]["accuracy"], result["alone"]["best"], result["alone"]["worst"]) == (0.75, 0.8, 0.7)
    assert "84.4%" in summary_text(result)
    assert json.loads(json.dumps(result)) == result


def test_a_history_without_a_trained_round_is_refused() -> None:
    with pytest.raises(ValueError, match="no round"):
        summary(HISTORY[:1], ALONE)


@pytest.mark.parametrize("rounds", [2, 6])
def test_the_picture_is_a_png_however_short_the_run(tmp_path: Path, rounds: int) -> None:
    path = plot(HISTORY[:rounds], ALONE, tmp_path / "curves.png")
    assert path.read_bytes().startswith(PNG)


def test_the_command_line_reports(tmp_path: Path) -> None:
    for name, value in (("history", HISTORY), ("alone", ALONE)):
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    files = [str(tmp_path / name) for name in ("history.json", "alone.json")]
    outputs = ["--png", str(tmp_path / "c.png"), "--out", str(tmp_path / "s.json")]
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "har" / "demo.py"), "report", *files, *outputs],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "Together" in done.stdout
    assert json.loads((tmp_path / "s.json").read_text())["rounds"] == 5


@pytest.mark.slow
def test_each_device_alone_trains_on_its_own_person(made_people: Callable[..., Path]) -> None:
    folder = made_people(range(1, 5))
    accuracy = alone_accuracy(
        folder,
        (1, 2),
        test_subjects="3-4",
        config={"num-server-rounds": 4, "local-epochs": 8},
        processes=1,
        limit_s=60,
    )
    assert list(accuracy) == [1, 2]
    assert all(0.5 < value <= 1.0 for value in accuracy.values())


def test_training_alone_that_takes_too_long_is_ended(made_people: Callable[..., Path]) -> None:
    config = {"num-server-rounds": 100_000}
    with pytest.raises(TimeoutError, match="longer than 1 s"):
        alone_accuracy(made_people([1, 2]), [1], test_subjects="2", config=config, processes=1, limit_s=1.0)
    assert not multiprocessing.active_children()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_person_alone_reaches_far_less_than_the_bar_for_all_together(har_data: Path) -> None:
    accuracy = alone_accuracy(har_data, (1, 2, 3, 4))
    assert 0.65 < sum(accuracy.values()) / 4 < 0.85
    assert app_config()["num-server-rounds"] == 25
