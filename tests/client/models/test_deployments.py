"""Deployments on a board: what is taken, what is refused, and the way back."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from argosy_client.models.arrival import Task
from argosy_client.models.deployment import RESUME, TRANSITIONS, Deployment, State
from argosy_client.models.deployments import MAX_ATTEMPTS, REPORT_S
from argosy_client.models.inference import NoInference, Served
from argosy_client.models.store import MANIFEST, MODEL
from argosy_common.artefact.signature import Purpose
from argosy_common.errors import WorkerDied
from argosy_common.wire.bodies import Deploy, Withdraw
from tests.artefacts import BAD, Artefact, Authority, artefact
from tests.client.models.board import Board, code
from tests.client.power import Fuse, PowerCut
from tests.waiting import until

BoardMaker = Callable[[str], Board]


def changed(order: Deploy, **fields: object) -> Deploy:
    return Deploy.model_validate({**order.model_dump(), **fields})


def test_a_version_is_fetched_verified_loaded_and_told(board: Board) -> None:
    said = board.deploy(artefact(1))
    assert [each.state for each in board.said] == ["fetching", "active"]
    assert (said.in_force, said.backend, said.ran_on, said.p95_ms) == (1, "judge", "CPU", 1.5)
    assert board.judge.runs == {"har": 1}
    folder = board.store.version_folder("har", 1)
    assert sorted(each.name for each in folder.iterdir()) == ["golden.bin", MANIFEST, MODEL, "signature.json"]
    assert (folder / MANIFEST).read_bytes() == artefact(1).manifest.canonical()
    assert board.blobs.digests() == [], "the bytes are not here twice"


def test_the_version_before_stays_and_older_ones_go(board: Board) -> None:
    for version in (1, 2, 3):
        assert board.deploy(artefact(version), rollout=version).state == "active"
    assert board.versions() == ["2", "3"]
    now = board.store.current("har")
    assert now is not None
    assert (now.version, now.previous) == (3, 2)


def test_the_same_deploy_again_is_answered_again_and_changes_nothing(board: Board) -> None:
    board.deploy(artefact(1))
    before = board.said[-1]
    assert board.carry_out(board.authority.deploy(artefact(1))) == before
    assert board.carry_out(board.authority.deploy(artefact(1), rollout=9)).rollout == 9, "of another rollout as well"


def test_a_version_that_cannot_be_used_gives_way_to_the_one_before(board: Board) -> None:
    board.deploy(artefact(1))
    said = board.deploy(artefact(2, onnx=BAD), rollout=2)
    assert (said.state, code(said), said.in_force) == ("rolled-back", "model-misfit", 1)
    assert board.judge.runs == {"har": 1}
    assert board.versions() == ["1"]
    assert board.carry_out(board.authority.deploy(artefact(2, onnx=BAD), rollout=2)) == said, "once is enough"


def test_a_first_version_that_cannot_be_used_leaves_none_in_force(board: Board) -> None:
    said = board.deploy(artefact(4, onnx=BAD))
    assert (said.state, said.in_force, board.versions()) == ("rolled-back", None, [])
    assert code(board.deploy(artefact(3), rollout=2)) == "model-outdated", "no version falls behind what was tried"
    assert board.deploy(artefact(5), rollout=3).state == "active"


def test_whatever_a_runtime_does_the_version_before_answers_again(board: Board) -> None:
    board.deploy(artefact(1))
    for number, crash in enumerate((WorkerDied(why="SIGSEGV"), RuntimeError("a bug")), start=2):
        board.judge.crash = crash
        said = board.deploy(artefact(number), rollout=number)
        assert (said.state, said.in_force, board.judge.runs) == ("rolled-back", 1, {"har": 1})


def tampered(order: Deploy) -> Deploy:
    return changed(order, manifest=order.manifest.replace(b'"labels":[]', b'"labels":["x"]'))


def of_another_authority(order: Deploy) -> Deploy:
    return changed(order, signature=Authority().sign(artefact(order.version).manifest).model_dump())


def signed_as_rollback_only(order: Deploy) -> Deploy:
    assert order.rollback is not None
    return changed(order, signature=order.rollback.model_dump())


def announced_as_another(order: Deploy) -> Deploy:
    return changed(order, version=order.version + 1)


@pytest.mark.parametrize(
    ("attack", "named"),
    [
        (tampered, "signature-invalid"),
        (of_another_authority, "signature-invalid"),
        (signed_as_rollback_only, "signature-invalid"),
        (announced_as_another, "artefact-invalid"),
    ],
)
def test_what_the_pinned_authority_did_not_sign_is_refused_with_nothing_changed(
    board: Board, attack: Callable[[Deploy], Deploy], named: str
) -> None:
    board.deploy(artefact(1))
    said = board.carry_out(attack(board.authority.deploy(artefact(2), rollout=2, rollback=True)))
    assert (said.state, code(said), said.in_force) == ("refused", named, 1)
    assert board.versions() == ["1"]
    assert board.asked == [], "nothing was fetched"


def test_blobs_that_are_not_what_the_manifest_says_are_refused(board: Board) -> None:
    board.deploy(artefact(1))
    good = artefact(2)
    for blob in good.blobs:
        board.blobs.put_bytes(blob)
    path = board.blobs.path(bytes.fromhex(good.manifest.onnx.digest))
    for content in (good.onnx[:-1], b"x" * len(good.onnx)):
        path.write_bytes(content)
        said = board.carry_out(board.authority.deploy(good, rollout=2))
        assert (said.state, code(said), said.in_force) == ("refused", "artefact-invalid", 1)
        assert board.versions() == ["1"]
    path.write_bytes(good.onnx)
    assert board.carry_out(board.authority.deploy(good, rollout=2)).state == "active", "a refusal is not for ever"


def test_a_lower_version_is_refused_unless_a_rollback_to_it_is_signed(board: Board) -> None:
    board.deploy(artefact(1))
    board.deploy(artefact(2), rollout=2)
    assert code(board.deploy(artefact(1), rollout=3)) == "model-outdated"
    forged = changed(
        board.authority.deploy(artefact(1), rollout=3),
        rollback=board.authority.sign(artefact(1).manifest, Purpose.MANIFEST).model_dump(),
    )
    assert code(board.carry_out(forged)) == "signature-invalid"
    assert board.in_force() == 2
    said = board.deploy(artefact(1), rollout=3, rollback=True)
    assert (said.state, said.in_force) == ("active", 1)
    assert board.versions() == ["1"], "what it was told to leave is no way back"
    assert board.deploy(artefact(2), rollout=4).state == "active"


def test_a_rollback_to_what_cannot_be_used_leaves_what_is_in_force(board: Board) -> None:
    board.deploy(artefact(2))
    said = board.deploy(artefact(1, onnx=BAD), rollout=2, rollback=True)
    assert (said.state, said.in_force, board.judge.runs) == ("rolled-back", 2, {"har": 2})


def test_a_withdrawn_version_is_out_of_force_and_nothing_takes_its_place(board: Board) -> None:
    board.deploy(artefact(1))
    board.deploy(artefact(2), rollout=2)
    said = board.carry_out(Withdraw(rollout=3, name="har", version=2))
    assert (said.state, code(said), said.in_force) == ("rolled-back", "model-withdrawn", None)
    assert (board.judge.runs, board.versions()) == ({}, [])
    assert code(board.deploy(artefact(1), rollout=4)) == "model-outdated", "it opens no way to a lower version"
    assert board.carry_out(Withdraw(rollout=3, name="har", version=2)).in_force is None
    assert board.carry_out(Withdraw(rollout=3, name="other", version=2)).in_force is None


def test_too_many_failed_requests_within_the_probation_put_it_out_of_force(board: Board) -> None:
    board.deploy(artefact(1))
    board.deploy(artefact(2), rollout=2, probation_s=60.0, report_s=10.0, max_errors=0.1)
    for requests, errors, state in ((10, 10, "active"), (100, 10, "active"), (100, 11, "rolled-back")):
        board.judge.served_now = Served(requests=requests, errors=errors, p95_ms=3.0)
        board.deployments._look("har")
        assert board.said[-1].state == state
    assert (code(board.said[-1]), board.in_force()) == ("model-unsteady", 1)


def test_reports_come_with_their_period_while_the_probation_lasts(board: Board) -> None:
    board.deploy(artefact(1), probation_s=25.0, report_s=10.0)
    board.said.clear()
    board.judge.served_now = Served(requests=7, errors=1, p95_ms=3.0, drift=0.2)
    pass_time(board, 60)
    assert [(each.requests, each.p95_ms, each.drift) for each in board.said] == [(7, 3.0, 0.2)] * 3


def test_where_nothing_can_run_models_now_that_is_told_and_holds_nothing_up(board: Board) -> None:
    board.judge.gone = True
    said = board.deploy(artefact(1))
    assert (said.state, code(said), said.in_force) == ("rolled-back", "inference-unreachable", None)


def test_after_the_probation_reports_are_rare_and_failed_requests_put_nothing_out_of_force(board: Board) -> None:
    board.deploy(artefact(1), probation_s=5.0, report_s=5.0, max_errors=0.1)
    board.judge.served_now = Served(requests=7, drift=0.2)
    pass_time(board, 10)
    board.said.clear()
    board.judge.served_now = Served(requests=100, errors=90, drift=0.6)
    pass_time(board, 3 * int(REPORT_S))
    assert [(each.state, each.drift) for each in board.said] == [("active", 0.6)] * len(board.said)
    assert len(board.said) in (2, 3)


def pass_time(board: Board, seconds: int) -> None:
    for _ in range(seconds):
        board.clock.now += 1
        board.deployments.tick()
        while not board.deployments._work.empty():
            work = board.deployments._work.get()
            assert work is not None
            work()


def test_after_a_restart_what_was_in_force_is_with_nobody_to_ask(board: Board) -> None:
    board.deploy(artefact(1))
    board.boot()
    assert board.judge.runs == {"har": 1}
    board.deployments._report_all()
    assert [(each.state, each.in_force) for each in board.said] == [("active", 1)]


def test_a_version_that_the_card_damaged_gives_way_at_the_next_start(board: Board) -> None:
    board.deploy(artefact(1))
    board.deploy(artefact(2), rollout=2)
    (board.store.version_folder("har", 2) / MODEL).write_bytes(b"har 3")
    board.boot()
    assert board.judge.runs == {"har": 1}
    assert (board.said[-1].state, code(board.said[-1])) == ("rolled-back", "artefact-invalid")


def test_a_damaged_version_in_force_is_brought_again_by_another_rollout(board: Board) -> None:
    board.deploy(artefact(1))
    (board.store.version_folder("har", 1) / MODEL).write_bytes(b"x")
    assert board.deploy(artefact(1), rollout=2).state == "active"
    assert (board.store.version_folder("har", 1) / MODEL).read_bytes() == artefact(1).onnx


def test_a_version_that_takes_the_board_down_at_each_load_is_given_up(board: Board) -> None:
    board.deploy(artefact(1))
    trying = Deployment(rollout=2, version=2, state=State.TRYING)
    for blob in artefact(2).blobs:
        board.blobs.put_bytes(blob)
    task = Task(board.authority.deploy(artefact(2), rollout=2))
    board.deployments._arrival.bring(task, artefact(2).manifest, board.authority.sign(artefact(2).manifest))
    board.store.remember("har", trying)

    class Cut(BaseException):
        """The board is gone."""

    starts = 0
    while board.in_force() != 1 or starts == 0:
        starts += 1
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("tests.client.models.board.Judge.load", _raising(Cut))
            try:
                board.boot()
            except Cut:
                continue
    assert starts == MAX_ATTEMPTS + 1
    board.boot()
    assert board.judge.runs == {"har": 1}
    known = board.store.deployment("har")
    assert known is not None
    assert known.state is State.ROLLED_BACK


def _raising(error: type[BaseException]) -> Callable[..., None]:
    def load(self: object, name: str) -> None:
        if name == "har":
            raise error

    return load


def test_the_power_may_be_cut_between_any_two_changes_on_the_disk(
    make_board: BoardMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the deployment: afterwards a whole version is in force, and the same deploy ends as it would have."""
    for onnx, rollback, version, ends in (
        (None, False, 3, 3),
        (BAD, False, 3, 2),
        (None, True, 1, 1),
    ):
        made: Artefact = artefact(version, onnx=onnx)
        for allowed in range(60):
            board = make_board(f"board-{version}-{onnx is None}-{allowed}")
            board.deploy(artefact(2))
            for blob in made.blobs:
                board.blobs.put_bytes(blob)
            order = board.authority.deploy(made, rollout=2, rollback=rollback)
            with monkeypatch.context() as patched:
                fuse = Fuse(patched, allowed)
                try:
                    board.carry_out(order)
                except PowerCut:
                    assert fuse.blown
            now = board.in_force()
            assert now in (2, version)
            assert board.store.checked("har", now, board.root.read_text()).version == now
            board.boot()
            assert board.judge.runs == {"har": board.in_force()}
            board.deploy(made, rollout=2, rollback=rollback)
            assert (board.in_force(), board.judge.runs) == (ends, {"har": ends})
            board.boot()
            assert board.judge.runs == {"har": ends}
            assert all(not each.startswith(".") for each in board.versions())
            if not fuse.blown:
                assert allowed >= 5
                break
        else:
            raise AssertionError("it never came to an end")


def test_the_disk_may_be_full_at_any_step(make_board: BoardMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each write may fail: it is told by name, what was in force stays, and it works once there is room."""
    told: set[tuple[str, str | None]] = set()
    for allowed in range(60):
        board = make_board(f"board-{allowed}")
        board.deploy(artefact(1))
        for blob in artefact(2).blobs:
            board.blobs.put_bytes(blob)
        left = allowed
        real = os.fsync

        def fsync(handle: int, real: Callable[[int], None] = real) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(handle)

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", fsync)
            said = board.carry_out(board.authority.deploy(artefact(2), rollout=2))
        if left >= 0:
            assert said.state == "active"
            assert told == {("refused", "disk-full")}
            return
        told.add((said.state, code(said)))
        assert board.in_force() == said.in_force
        assert board.judge.runs["har"] in (1, 2)
        assert board.deploy(artefact(2), rollout=2).state == "active", "once there is room"
        assert (board.in_force(), board.versions()) == (2, ["1", "2"])
    raise AssertionError("it never came to an end")


def test_without_inference_a_version_is_kept_verified_and_active(board: Board) -> None:
    board.deployments._inference = NoInference()
    said = board.deploy(artefact(1))
    assert (said.state, said.backend) == ("active", "none")


def test_a_newer_order_takes_the_place_of_one_that_is_still_being_fetched(board: Board) -> None:
    board.deploy(artefact(1))
    board.deployments.start()
    try:
        deploy = board.authority.deploy(artefact(2), rollout=2)
        board.deployments.deploy(None, deploy)  # type: ignore[arg-type]  # the envelope is not looked at
        assert until(lambda: board.asked)
        board.deployments.deploy(None, deploy)  # type: ignore[arg-type]  # likewise: it is under way
        back = board.authority.deploy(artefact(1), rollout=2, rollback=True)
        board.deployments.deploy(None, back)  # type: ignore[arg-type]  # likewise
        assert until(lambda: (board.said[-1].version, board.said[-1].state) == (1, "active"))
        assert board.in_force() == 1
    finally:
        board.deployments.stop(5.0)
        board.exchange.close()


def test_every_state_says_what_a_restart_does_and_nothing_leads_out_of_nowhere() -> None:
    assert set(RESUME) == set(State)
    assert {state for state, _ in TRANSITIONS} <= set(State)
