"""The device daemon on an emulated arm64, beside an ordinary one: join, a round, an answer of a model."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from argosy_client.inference import Client
from argosy_server.local_fleet import LocalDevice, LocalFleet, wait_until
from tests.system.debs import ROOT
from tests.system.emulated.board import OURS, Board, tree, why_not

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NO_BOARD = why_not()
LINEAR = ROOT / "tests/system/apps/linear"
EMULATED_S = 300.0


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long something took; emulation makes it several times longer than on a board."""
    began = time.monotonic()
    yield
    print(f"{what:<44} {time.monotonic() - began:>9.3f} s")


@pytest.fixture
def board(tmp_path_factory: pytest.TempPathFactory) -> Board:
    """An emulated board that has joined nothing."""
    with timed("the board's software is unpacked"):
        return Board(tree(), tmp_path_factory.mktemp("arm"))


@pytest.fixture
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFleet]:
    """A coordinator and one device of this machine's own kind."""
    folder = tmp_path_factory.mktemp("f")
    settings = {"heartbeat_s": 2.0, "resend_s": 5.0, "inference.socket": str(folder / "d1.sock")}
    # an emulated processor keeps nobody's time
    with LocalFleet(folder / "fleet", [LocalDevice("d1", {}, settings)], settings={"runs.resend_s": 30.0}) as made:
        made.start()
        yield made


@pytest.mark.skipif(bool(NO_BOARD), reason=NO_BOARD)
def test_an_arm64_board_takes_part_and_serves(fleet: LocalFleet, board: Board) -> None:
    print()
    assert board.run("/usr/bin/uname", "-m").strip() == "aarch64"
    _join(fleet, board)
    (device,) = _devices(fleet, "arm")
    fleet._spawn("arm", board.command("/usr/bin/argosy-device", "run"), board.environment)
    with timed("from the daemon's start until it is online"):
        fleet.wait_online(2, EMULATED_S)
    with timed("a round with a numpy app"):
        run = fleet.run(LINEAR, config={"num-server-rounds": "1"})
        row = fleet.wait_run(run, EMULATED_S)
        assert row["status"] == "finished", f"{row}\n{fleet.log_tail('arm')}"
    replies = [event for event in fleet.events(run) if event["data"].get("device") == device]
    assert replies, "the board's own reply counted"
    with timed("a model is rolled out, tried and served"):
        _roll_out(fleet)
    with Client(board.folder / "device/inference.sock") as client:
        inputs = np.ones((1, 4), np.float32)
        client.infer("linear", inputs)
        with timed("an answer of the model (emulated)"):
            emulated = client.infer("linear", inputs)
        (served,) = client.models()
    with Client(fleet.folder.parent / "d1.sock") as native:
        assert np.allclose(native.infer("linear", inputs), emulated, atol=1e-5), "both answer alike"
    print(f"served by {served['backend']}, on {served['ran_on']}")
    _sizes(board, fleet.processes["arm"].pid)
    fleet.kill("arm", number=signal.SIGTERM)


def _join(fleet: LocalFleet, board: Board) -> None:
    with fleet.client() as client:
        made = client.post("tokens", {"uses": 1, "ttl_s": 600})
    with timed("join"):
        board.run("/usr/bin/argosy-device", "join", made["url"], *_options(made))


def _options(made: dict[str, str]) -> list[str]:
    return ["--token", made["token"], "--pin", made["pin"], "--name", "arm"]


def _devices(fleet: LocalFleet, name: str) -> list[str]:
    with fleet.client() as client:
        return [each["device"] for each in client.get("devices")["devices"] if each["name"] == name]


def _roll_out(fleet: LocalFleet) -> None:
    with fleet.client() as api:
        number = api.post("rollouts", {"model": "linear:1", "rings": [{"share": 1.0, "hold_s": 0.0}]})["rollout"]

        def over() -> bool:
            return api.get(f"rollouts/{number}")["state"] in ("finished", "rolled-back")

        wait_until(over, EMULATED_S, "the rollout")
        assert api.get(f"rollouts/{number}")["state"] == "finished", api.get(f"rollouts/{number}")


def _sizes(board: Board, pid: int) -> None:
    """Print what the software takes. The memory is that of qemu with the daemon in it: more than on a board."""
    rss = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    print(f"{'the daemon and qemu, in memory':<44} {int(rss.split()[1]) / 1024:>5.0f}     MB")
    installed = board.run("/usr/bin/du", "-sm", "/usr/lib/argosy").split()[0]
    print(f"{'unpacked: ' + ', '.join(OURS[-2:]) + ' and the code':<44} {installed:>5}     MB")
    assert json.loads(board.run("/usr/bin/argosy-device", "status", "--json"))["connected"]
