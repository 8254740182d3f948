"""Rounds that end on time, and none at all, on Flower's own SuperLink and SuperNodes: as docs/stragglers.md says.

One wrapped grid, or one wrapped strategy, in the server app; no coordinator, device or broker of ours.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.flower_native import NativeFederation, Value, native_environment
from benchmarks.processes import Processes

BOARDS = Path(__file__).parents[2] / "benchmarks" / "apps" / "boards"

QUORUM = """grid=QuorumGrid(
            grid,
            settings=StragglerSettings(enabled=True, quorum=0.75),
            report=lambda name, data: told.append({"name": name, **data}),
        ),"""
FEDBUFF = "    strategy = FedBuff(strategy, buffer=2, report=lambda name, data: told.append({'name': name, **data}))\n"
IMPORTS = """
from argosy_common.flower.fedbuff import FedBuff
from argosy_common.flower.quorum import QuorumGrid
from argosy_common.run_settings import StragglerSettings
"""


def edited_app(folder: Path, *, asynchronous: bool) -> Path:
    """Copy the boards' app and edit it as its user would; it writes down what it was told."""
    app = folder / "boards"
    shutil.copytree(BOARDS, app, ignore=shutil.ignore_patterns("__pycache__"))
    server = app / "boards_app" / "server_app.py"
    text = server.read_text()
    for before, after in (
        ("from boards_app.data import load_people", f"{IMPORTS}from boards_app.data import load_people"),
        ("        grid=grid,", "        grid=grid," if asynchronous else f"        {QUORUM}"),
        ("    strategy.start(", f"    told = []\n{FEDBUFF if asynchronous else ''}    strategy.start("),
        ("def roll_call(", '    Path(marks + ".told").write_text(json.dumps(told))\n\n\ndef roll_call('),
    ):
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    server.write_text(text)
    return app


def run(tmp_path: Path, rounds: int, delays: list[str], *, asynchronous: bool) -> list[dict[str, object]]:
    """Run the edited app with a SuperNode a delay; return what it was told."""
    told = tmp_path / "marks.told"
    config: dict[str, Value] = {
        "num-server-rounds": rounds,
        "min-devices": len(delays),
        "marks": str(tmp_path / "marks"),
        "roll-call": False,
    }
    nodes: list[dict[str, Value]] = [
        {"subject": number, "seed": number, "delay": delay} for number, delay in enumerate(delays, 1)
    ]
    with Processes(tmp_path, native_environment(tmp_path)) as processes:
        federation = NativeFederation(tmp_path, processes)
        federation.start_link()
        federation.start_nodes(nodes)
        federation.submit(edited_app(tmp_path, asynchronous=asynchronous), config)
        processes.wait("the run ends", told.is_file, 300)
    found: list[dict[str, object]] = json.loads(told.read_text())
    return found


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_slow_node_sets_no_pace_on_flowers_own_transport(tmp_path: Path) -> None:
    told = run(tmp_path, 2, ["fixed:0"] * 3 + ["fixed:90"], asynchronous=False)
    assert [data["round"] for data in told] == [1, 2]
    assert [data["how"] for data in told] == ["deadline", "deadline"]
    for data in told:
        counted = data["counted"]
        assert isinstance(counted, dict)
        assert len(counted) == 3


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_steps_are_made_without_a_slow_node_on_flowers_own_transport(tmp_path: Path) -> None:
    told = run(tmp_path, 4, ["fixed:0"] * 3 + ["fixed:300"], asynchronous=True)
    steps = [data for data in told if data["name"] == "async-step"]
    assert [data["round"] for data in steps] == [1, 2, 3, 4]
    heard = {update["device"] for data in steps for update in data["updates"]}  # type: ignore[attr-defined]  # a list
    assert len(heard) >= 2
