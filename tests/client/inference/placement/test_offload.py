"""A model whose rest the coordinator runs: the same answers, and no failed request whatever becomes of that one."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from argosy_client.inference import Client
from argosy_client.inference.backend import Array, Material
from argosy_client.inference.backends.onnx_runtime import Fp32
from argosy_client.inference.folder import Version
from argosy_client.inference.host import InferenceHost, Served
from argosy_client.inference.placement.line import Line, to_coordinator
from argosy_client.inference.placement.offload import Offloaded
from argosy_client.inference.placement.opening import placed
from argosy_client.inference.placement.plan import Plan, forget_plan, read_plan, write_plan
from argosy_common.errors import ArgosyError, NotEnrolled, OffloadUnavailable
from argosy_common.offload import PATH
from tests.cuttable import EXITS, exits_of, staged
from tests.models import answers, windows
from tests.offloading import Bench, Board, plan_for
from tests.waiting import until


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(tmp_path_factory.mktemp("c"))
    made.add(staged())
    yield made
    made.close()


@pytest.fixture
def board(bench: Bench) -> Board:
    return bench.board()


@pytest.fixture
def version(bench: Bench, board: Board) -> Version:
    return bench.deploy(board, "har:1")


Open = Callable[..., Offloaded]


@pytest.fixture
def session(board: Board, version: Version) -> Iterator[Open]:
    """Open the version by a plan, and wait until the coordinator is in use."""
    made: list[Offloaded] = []

    def start(tensor: str = "sum", *, used: bool = True, **fields: object) -> Offloaded:
        write_plan(version, plan_for(version, tensor, **fields))
        whole = Fp32().open(Material(version.onnx, version.manifest, version.samples, version.work))
        found = placed(version, whole, state_dir=board.state, rng=random.Random(1))
        assert isinstance(found, Offloaded)
        made.append(found)
        assert not used or until(lambda: "not the coordinator" not in found.ran_on), found.ran_on
        return found

    yield start
    for each in made:
        each.close()


@pytest.mark.parametrize(("tensor", "ran"), [("b1", "CPU, then"), ("sum", "CPU, then"), ("y.p", "CPU"), ("x", "coord")])
def test_it_answers_as_the_whole_model_does_wherever_it_is_cut(session: Open, tensor: str, ran: str) -> None:
    found, inputs = session(tensor), windows(5)
    assert found.ran_on.startswith(ran)
    assert found.ran_on.endswith("coordinator")
    assert np.allclose(found.run(inputs), answers(staged(), inputs), atol=1e-4)
    assert np.allclose(found.run(inputs[:1]), answers(staged(), inputs[:1]), atol=1e-4)
    assert found.counts() == {"remote": 2, "fallbacks": 0, "local": found.counts()["local"]}


def test_a_coordinator_that_ends_in_the_middle_costs_no_request_and_is_used_again_when_it_is_back(
    bench: Bench, session: Open
) -> None:
    found, inputs = session(), windows(2)
    wanted = answers(staged(), inputs)
    bench.stop()
    try:
        for _ in range(5):
            assert np.allclose(found.run(inputs), wanted, atol=1e-4)
        told = found.counts()
        assert (told["remote"], told["fallbacks"], told["local"]) == (0, 1, 4)
        assert "not the coordinator" in found.ran_on
    finally:
        bench.start()
    assert until(lambda: found.ran_on == "CPU, then coordinator")
    assert np.allclose(found.run(inputs), wanted, atol=1e-4)
    assert found.counts()["remote"] == 1


def test_a_coordinator_that_is_too_slow_is_not_waited_for(bench: Bench, session: Open) -> None:
    found, inputs = session(timeout_ms=300.0), windows(1)
    pid = bench.host.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        for _ in range(3):
            assert np.allclose(found.run(inputs), answers(staged(), inputs), atol=1e-4)
        told = found.counts()
        assert (told["fallbacks"], told["local"]) == (1, 2)
        assert "300 ms" in found.ran_on
    finally:
        os.kill(pid, signal.SIGCONT)
    assert until(lambda: found.ran_on == "CPU, then coordinator")


def test_what_dies_over_a_request_costs_that_request_nothing_but_time(bench: Bench, session: Open) -> None:
    found, inputs = session(timeout_ms=20_000.0), windows(1)
    pid = bench.host.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    outputs: list[Array] = []
    thread = threading.Thread(target=lambda: outputs.append(found.run(inputs)))
    thread.start()
    assert until(lambda: bench.host._pending)
    os.kill(pid, signal.SIGKILL)
    thread.join(20)
    assert np.allclose(outputs[0], answers(staged(), inputs), atol=1e-4)
    assert found.counts()["fallbacks"] == 1
    assert "ended over it" in found.ran_on
    assert until(lambda: found.ran_on == "CPU, then coordinator")


def test_who_has_no_time_for_both_is_answered_from_here_at_once(session: Open) -> None:
    found, inputs = session(expected_ms=50.0, fallback_ms=50.0), windows(1)
    found.run_by(inputs, time.monotonic() + 0.09)
    assert found.counts()["remote"] == 0
    found.run_by(inputs, time.monotonic() + 30.0)
    assert found.counts()["remote"] == 1


def test_a_revoked_board_goes_on_by_itself(bench: Bench, board: Board, session: Open) -> None:
    found, inputs = session(), windows(1)
    bench.revoked.add(board.device)
    for _ in range(2):
        assert np.allclose(found.run(inputs), answers(staged(), inputs), atol=1e-4)
    assert "revoked" in found.ran_on
    assert found.counts()["fallbacks"] == 1


def test_a_coordinator_that_answers_otherwise_is_not_used(bench: Bench, board: Board) -> None:
    """It runs another file under the same number: the golden answers tell."""
    version = bench.deploy(board, bench.add(staged(seed=3)))
    other = bench.store.models.get("har:1")
    bench.registry._verified[version.manifest.reference] = version.manifest.model_copy(
        update={"onnx": version.manifest.onnx.model_copy(update={"digest": other.onnx_digest})}
    )
    write_plan(version, plan_for(version, "sum"))
    whole = Fp32().open(Material(version.onnx, version.manifest, version.samples, version.work))
    found = placed(version, whole, state_dir=board.state, rng=random.Random(1))
    try:
        assert until(lambda: "golden inputs are wrong" in found.ran_on)
        assert np.allclose(found.run(windows(2)), answers(staged(seed=3), windows(2)), atol=1e-4)
    finally:
        found.close()


def test_more_than_the_coordinator_takes_at_once_is_run_here(session: Open) -> None:
    found, inputs = session("b1"), windows(1025)
    assert found.run(inputs).shape == (1025, 6)
    assert found.counts()["fallbacks"] == 0
    assert "not the coordinator" not in found.ran_on


def test_exits_before_the_cut_are_tried_first(bench: Bench, board: Board) -> None:
    model, inputs = staged(seed=5), windows(30, seed=2) * np.linspace(0.1, 9, 30, dtype=np.float32)[:, None, None]
    version = bench.deploy(board, bench.add(model, exits=EXITS, exit_confidence=0.6))
    write_plan(version, plan_for(version, "b1"))
    whole = Fp32().open(Material(version.onnx, version.manifest, version.samples, version.work))
    found = placed(version, whole, state_dir=board.state, rng=random.Random(1))
    try:
        assert until(lambda: found.ran_on == "CPU, then coordinator")
        told, outputs = exits_of(model, inputs), found.run(inputs)
        assert isinstance(found, Offloaded)
        counts = found.counts()["exits"]
        assert set(counts) == {"e1", "final"}, "the second lies behind the cut"
        at_exit = np.all(np.isclose(outputs, told["e1"], atol=1e-3), axis=1)
        assert at_exit.sum() == counts["e1"]
        assert np.allclose(outputs[~at_exit], told["y"][~at_exit], atol=1e-3)
    finally:
        found.close()


# --- plans on the disk ---------------------------------------------------------------------------------------------


def test_a_plan_of_another_version_another_file_or_rubbish_is_ignored(bench: Bench, version: Version) -> None:
    good = plan_for(version, "sum")
    write_plan(version, good)
    assert read_plan(version) == good
    for changes in ({"model": "har:2"}, {"onnx": "0" * 64}):
        write_plan(version, good.model_copy(update=changes))
        assert read_plan(version) is None
    for rubbish in (b"", b"{}", b"[1]", good.model_dump_json().encode()[:-3], b"\xff"):
        (version.work / "plan.json").write_bytes(rubbish)
        assert read_plan(version) is None
    assert forget_plan(version)
    assert not forget_plan(version)
    assert read_plan(version) is None


@pytest.mark.parametrize("tensor", ["b2", "nothing", ""])
def test_a_plan_that_cannot_be_followed_leaves_all_of_it_here(board: Board, version: Version, tensor: str) -> None:
    write_plan(version, plan_for(version, tensor))
    whole = Fp32().open(Material(version.onnx, version.manifest, version.samples, version.work))
    assert placed(version, whole, state_dir=board.state) is whole
    write_plan(version, plan_for(version, "sum"))
    assert placed(version, whole, state_dir=None) is whole


def test_a_board_that_is_not_enrolled_runs_it_itself_and_says_so(board: Board, version: Version, session: Open) -> None:
    for path in board.state.glob("enrolment.json"):
        path.unlink()
    found = session(used=False)
    assert until(lambda: "has not joined" in found.ran_on or "enrolled" in found.ran_on), found.ran_on
    assert np.allclose(found.run(windows(1)), answers(staged(), windows(1)), atol=1e-4)


# --- the line ------------------------------------------------------------------------------------------------------


def test_a_line_that_was_cut_is_made_anew_with_the_files_of_that_moment(bench: Bench, board: Board) -> None:
    line = Line(to_coordinator(board.state))
    try:
        line.ask(PATH, b"1", timeout_s=5)
        first = line._connection
        line.ask(PATH, b"1", timeout_s=5)
        assert line._connection is first
        assert first is not None
        first.sock.close()
        other = bench.board()
        shutil.copytree(other.state, board.state, dirs_exist_ok=True)
        bench.revoked.add(board.device)
        line.ask(PATH, b"1", timeout_s=5)  # under the new name
        (board.state / "enrolment.json").unlink()
        line._hang_up()
        with pytest.raises(NotEnrolled):
            line.ask(PATH, b"1", timeout_s=5)
    finally:
        line.close()


def test_who_asks_turns_away_in_time_from_a_name_that_takes_for_ever(board: Board) -> None:
    over = threading.Event()

    def never(_timeout_s: float) -> object:
        over.wait(20)
        raise OSError("nobody there")

    line = Line(never)  # type: ignore[arg-type]  # it never gets so far
    with pytest.raises(OffloadUnavailable, match="30 ms"):
        line.ask(PATH, b"", timeout_s=0.03)
    line.close()
    over.set()


# --- in the inference process ---------------------------------------------------------------------------------------


def test_the_process_follows_a_plan_as_soon_as_it_is_made_and_no_longer_than_that(
    bench: Bench, board: Board, version: Version, tmp_path: Path
) -> None:
    served = Served(board.state / "models", tmp_path / "s", state_dir=board.state)
    host = InferenceHost(served, rng=random.Random(1))
    host.start()
    try:
        assert host.wait_ready(60)
        inputs, wanted = windows(2), answers(staged(), windows(2))

        def ran_on() -> str:
            return str(host.stats()[0]["ran_on"])

        with Client(tmp_path / "s") as client:
            assert np.allclose(client.infer("har", inputs), wanted, atol=1e-3)
            assert "coordinator" not in ran_on()
            write_plan(version, plan_for(version, "sum"))
            assert until(lambda: ran_on().endswith("then coordinator"))
            assert np.allclose(client.infer("har", inputs), wanted, atol=1e-3)
            assert host.stats()[0]["remote"] == 1
            bench.stop()
            try:
                for _ in range(3):
                    assert np.allclose(client.infer("har", inputs), wanted, atol=1e-3)
            finally:
                bench.start()
            assert host.stats()[0]["fallbacks"] == 1
            assert host.stats()[0]["errors"] == 0
            forget_plan(version)
            assert until(lambda: "coordinator" not in ran_on())
            assert np.allclose(client.infer("har", inputs), wanted, atol=1e-3)
    finally:
        host.stop()


def test_plans_read_back() -> None:
    plan = Plan(model="har:1", onnx="0" * 64, way="split", tensor="/a/ü", timeout_ms=3.5, reason="it is so")
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    assert issubclass(OffloadUnavailable, ArgosyError)
