"""The driver over a real database: what is kept before it is sent, restarts at any point, and who may say what."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from argosy_common.artefact.signature import Purpose, verify
from argosy_common.errors import (
    ModelNotFound,
    RolloutNotFound,
    RolloutStateForbids,
    RolloutUnderWay,
    RolloutUnsuitable,
    StorageFailed,
)
from argosy_common.wire.bodies import Body, Deploy, ErrorPart, ModelState, Withdraw
from argosy_common.wire.envelope import Envelope
from argosy_server.models.rollout import Ring
from argosy_server.models.rollouts import Rollouts
from argosy_server.store import Store
from argosy_server.store.models import SignedManifest
from tests.artefacts import Artefact, Authority, artefact
from tests.server.store.test_tables import _device

ENVELOPE = Envelope(kind="model-state")
ALL = (Ring(share=1.0, hold_s=0.0),)
STEPS = tuple(Ring(share=share, hold_s=10.0) for share in (0.2, 0.5, 1.0))


class HandClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.passed = 0.0

    def monotonic(self) -> float:
        return 100.0 + self.passed

    def wall(self) -> datetime:
        return datetime(2026, 5, 1, tzinfo=UTC) + timedelta(seconds=self.passed)


class Bench:
    """A coordinator's rollouts with ten boards, which answer when they are told to."""

    def __init__(self, folder: Path) -> None:
        self.clock = HandClock()
        self.authority = Authority()
        self.url = f"sqlite:///{folder / 'argosy.db'}"
        self.store = Store.open(self.url, self.clock)
        self.devices = [f"{number:016x}" for number in range(10)]
        for number, device in enumerate(self.devices):
            self.store.devices.add(_device(device, f"board-{number}", tags=["canary"] if number < 2 else []))
        self.online = set(self.devices)
        self.sent: list[tuple[str, Body]] = []
        self.restarting = False
        self.start()

    def start(self) -> None:
        """Begin anew, with nothing but what is in the database."""
        self.rollouts = Rollouts(
            self.store,
            clock=self.clock,
            post=self._post,
            online=lambda: self.online,
            signer=lambda: (self.authority.key, self.authority.chain),
            resend_s=5.0,
        )

    def add(self, *versions: int, name: str = "har", run: int | None = None) -> None:
        for version in versions:
            made = artefact(version, name=name, run=run)
            self.store.models.add(name, partial(self._row, made), actor="test")

    def _row(self, made: Artefact, _version: int, _parent: int | None) -> SignedManifest:
        signature = self.authority.sign(made.manifest).model_dump()
        blobs = (made.manifest.onnx.digest, made.manifest.golden.blob.digest)
        return SignedManifest(made.manifest.canonical(), signature, *blobs, run=None, round=None)

    def _post(self, device: str, body: Body) -> bool:
        known = {row.device: row.state for row in self.store.rollouts.devices(body.rollout)}  # type: ignore[attr-defined]
        assert known[device] != "pending", "it is in the database that it is sent, before it is"
        self.sent.append((device, body))
        return True

    def tick(self, seconds: float = 1.0) -> None:
        self.clock.passed += seconds
        if self.restarting:
            self.start()
        self.rollouts.tick()

    def say(self, device: str, body: Body, state: str, **fields: Any) -> None:  # noqa: ANN401  (of a ModelState)
        assert isinstance(body, Deploy | Withdraw)
        told: dict[str, Any] = {"in_force": body.version if state == "active" else None, **fields}
        report = ModelState.model_validate(
            {"rollout": body.rollout, "name": body.name, "version": body.version, "state": state, **told}
        )
        self.rollouts.take(device, ENVELOPE, report)

    def answer(self, state: str = "active", **fields: Any) -> None:  # noqa: ANN401  (of a ModelState)
        """Have every board that was sent something answer alike."""
        sent, self.sent = self.sent, []
        for device, body in sent:
            self.say(device, body, state, **fields)

    def finish(self, *rings: Ring, model: str = "har:1") -> int:
        """Roll out to the end."""
        number = self.rollouts.start(model, rings or ALL, "op")
        for _ in range(100):
            if self.state(number) == "finished":
                self.sent.clear()
                return number
            self.answer()
            self.tick()
        raise AssertionError(self.rollouts.show(str(number)))

    def state(self, number: int) -> str:
        return str(self.rollouts.show(str(number))["state"])


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.store.close()


def test_a_rollout_goes_ring_by_ring_and_every_step_is_in_the_audit_log(bench: Bench) -> None:
    bench.add(1)
    number = bench.rollouts.start("har:1", STEPS, "user:op")
    sizes = []
    while bench.state(number) == "running":
        sizes.append(len(bench.rollouts.show(str(number))["devices"]))
        bench.answer()
        bench.tick(5.0)
    assert sorted(set(sizes)) == [2, 5, 10]
    audited = [(it.actor, it.action) for it in bench.store.audit.tail() if it.subject == "har:1"]
    assert audited == [
        ("test", "model.add"),
        ("user:op", "model.rollout"),
        ("coordinator", "model.advance"),
        ("coordinator", "model.advance"),
        ("coordinator", "model.finished"),
    ]


@pytest.mark.parametrize("fails_in", [0, 1, 2, 3])
def test_a_coordinator_that_is_killed_at_any_moment_comes_to_the_same_end(bench: Bench, fails_in: int) -> None:
    """Each tick is the first of a new process; reports that were not kept yet are lost with the old one."""
    bench.add(1, 2)
    bench.finish()
    bench.restarting = True
    number = bench.rollouts.start("har:2", STEPS, "op")
    seen = 0
    for _ in range(60):
        row = bench.rollouts.show(str(number))
        if row["state"] in ("finished", "rolled-back"):
            break
        assert len(row["devices"]) <= (2, 5, 10)[row["ring"]]
        sent, bench.sent = bench.sent, []
        bench.start()
        for device, body in sent:
            fails = row["state"] == "running" and row["ring"] == fails_in
            bench.say(device, body, "refused" if fails else "active", **({"in_force": 1} if fails else {}))
            seen += 1
        bench.clock.passed += 6.0
        bench.rollouts.tick()
    row = bench.rollouts.show(str(number))
    assert row["state"] == ("finished" if fails_in == 3 else "rolled-back")
    assert len(row["devices"]) == (2, 5, 10, 10)[fails_in]
    assert seen


def test_a_report_that_was_lost_with_the_coordinator_is_asked_for_again(bench: Bench) -> None:
    bench.add(1)
    number = bench.rollouts.start("har", ALL, "op")
    bench.answer()  # taken, and not kept yet
    bench.start()
    bench.tick(0.0)
    assert len(bench.sent) == 10
    bench.answer()
    bench.tick()
    assert bench.state(number) == "finished"


def test_what_is_not_answered_is_sent_again_and_what_is_being_fetched_less_often(bench: Bench) -> None:
    bench.add(1)
    bench.rollouts.start("har", ALL, "op")
    assert len(bench.sent) == 10
    bench.answer("fetching")
    bench.tick()
    bench.tick(5.0)
    assert bench.sent == []
    bench.tick(50.0)
    assert len(bench.sent) == 10
    bench.sent.clear()
    bench.online.clear()
    bench.tick(60.0)
    assert bench.sent == []


def test_nothing_is_sent_while_the_database_fails_and_all_of_it_once_it_works(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.add(1)

    def fails(*_: object, **__: object) -> None:
        raise StorageFailed(path="x", why="a test")

    with monkeypatch.context() as patched:
        patched.setattr(bench.store.rollouts, "save", fails)
        bench.rollouts.start("har", ALL, "op")
        assert bench.sent == []
    bench.tick()
    assert len(bench.sent) == 10


def test_failures_take_the_version_back_with_a_signed_rollback(bench: Bench) -> None:
    bench.add(1, 2)
    bench.finish()
    number = bench.rollouts.start("har:2", (Ring(share=1.0, hold_s=60.0, max_errors=0.3),), "op")
    assert all(isinstance(body, Deploy) and body.rollback is None for _, body in bench.sent)
    sent, bench.sent = bench.sent, []
    error = ErrorPart(code="model-misfit", message="no")
    for place, (device, body) in enumerate(sent):
        bench.say(device, body, "active") if place < 6 else bench.say(
            device, body, "rolled-back", in_force=1, error=error.model_dump()
        )
    bench.tick()
    row = bench.rollouts.show(str(number))
    assert (row["state"], row["why"]) == ("rolling-back", "4 of 10 devices failed with it, over the limit of 30 %")
    assert len(bench.sent) == 6, "who went back by itself is not told to"
    for _, body in bench.sent:
        assert isinstance(body, Deploy)
        assert (body.version, body.rollout) == (1, number)
        assert body.rollback is not None
        verify(body.rollback, Purpose.ROLLBACK, body.manifest, bench.authority.pem.decode())
    bench.answer()
    bench.tick()
    assert bench.state(number) == "rolled-back"
    errors = [each["error"]["code"] for each in bench.rollouts.show(str(number))["devices"] if each["error"]]
    assert errors == ["model-misfit"] * 4


def test_a_board_that_was_away_while_a_version_was_taken_back_is_sent_back_when_it_comes(bench: Bench) -> None:
    bench.add(1, 2, 3)
    bench.finish()
    number = bench.rollouts.start("har:2", (Ring(share=1.0, hold_s=60.0),), "op")
    bench.answer()
    bench.tick()
    away = bench.devices[3]
    bench.online.discard(away)
    bench.rollouts.follow(str(number), "stop", "user:op")
    bench.answer()
    bench.tick()
    assert bench.state(number) == "rolled-back"
    bench.start()
    bench.rollouts.start("har:3", (Ring(tag="canary", hold_s=600.0),), "op")
    bench.sent.clear()
    bench.online.add(away)
    bench.tick()
    ((device, body),) = bench.sent
    assert isinstance(body, Deploy)
    assert (device, body.version, body.rollback is not None) == (away, 1, True)


def test_a_board_that_joins_later_gets_what_is_out_and_not_what_is_on_its_way(bench: Bench) -> None:
    bench.add(1, 2)
    bench.finish()
    bench.rollouts.start("har:2", (Ring(tag="canary", hold_s=600.0),), "op")
    bench.answer()
    bench.store.devices.add(_device("00000000000000ff", "late"))
    bench.online.add("00000000000000ff")
    bench.tick(6.0)
    late = [body for device, body in bench.sent if device == "00000000000000ff"]
    assert [body.version for body in late if isinstance(body, Deploy)] == [1]


def test_the_first_version_is_withdrawn(bench: Bench) -> None:
    bench.add(1)
    number = bench.finish()
    bench.rollouts.roll_back("har", "op")
    assert {type(body) for _, body in bench.sent} == {Withdraw}
    bench.answer("rolled-back")
    bench.tick()
    assert bench.state(number) == "rolled-back"


def test_a_rollback_to_a_named_version_is_a_rollout_of_its_own(bench: Bench) -> None:
    bench.add(1, 2, 3)
    for version in (1, 2, 3):
        bench.finish(model=f"har:{version}")
    number = bench.rollouts.roll_back("har:1", "op")
    assert {(body.version, body.rollback is not None) for _, body in bench.sent if isinstance(body, Deploy)} == {
        (1, True)
    }
    bench.answer()
    bench.tick()
    bench.tick()
    assert bench.state(number) == "finished"
    with pytest.raises(RolloutUnsuitable, match="name the version"):
        bench.rollouts.roll_back("har", "op")
    with pytest.raises(RolloutUnsuitable, match="lower"):
        bench.rollouts.roll_back("har:2", "op")


def test_reports_of_others_and_of_other_things_are_left_alone(bench: Bench) -> None:
    bench.add(1, 2)
    bench.finish()
    number = bench.rollouts.start("har:2", (Ring(tag="canary", hold_s=60.0),), "op")
    device, body = bench.sent[0]
    before = bench.rollouts.show(str(number))
    bench.say(bench.devices[5], body, "refused")
    for change in ({"name": "other"}, {"rollout": 99}, {"version": 3}):
        bench.say(device, body, "refused", **change)
    bench.tick(0.0)
    assert bench.rollouts.show(str(number))["devices"] == before["devices"]


def test_a_device_may_fetch_the_blobs_of_what_it_was_sent_until_it_has_answered(bench: Bench) -> None:
    bench.add(1)
    bench.rollouts.start("har", (Ring(tag="canary", hold_s=60.0),), "op")
    digest = bytes.fromhex(artefact(1).manifest.onnx.digest)
    member, stranger = bench.devices[0], bench.devices[5]
    assert bench.rollouts.may_serve(member, digest)
    assert not bench.rollouts.may_serve(member, b"\x00" * 32)
    assert not bench.rollouts.may_serve(stranger, digest)
    bench.answer()
    bench.tick()
    assert not bench.rollouts.may_serve(member, digest)


def test_a_revoked_device_is_neither_waited_for_nor_sent_anything(bench: Bench) -> None:
    bench.add(1)
    for device in bench.devices[5:]:
        bench.store.devices.decide(device, "revoke", "op")
    number = bench.rollouts.start("har", ALL, "op")
    assert len(bench.sent) == 5
    bench.answer()
    bench.tick()
    assert bench.state(number) == "finished"


@pytest.mark.parametrize(
    ("rings", "why"),
    [
        ((), "no ring"),
        ((Ring(share=0.5), Ring(share=0.2)), "larger"),
        ((Ring(share=0.5), Ring(share=0.5)), "larger"),
        ((Ring(tag="nobody"),), "no device has the tag 'nobody'"),
        ((Ring(),), "either a share or a tag"),
    ],
)
def test_rings_that_cannot_be_meant_are_refused(bench: Bench, rings: tuple[Ring, ...], why: str) -> None:
    bench.add(1)
    with pytest.raises(RolloutUnsuitable, match=why):
        bench.rollouts.start("har", rings, "op")
    assert bench.rollouts.rows() == []


def test_what_an_operator_may_not_do_is_said_by_name(bench: Bench) -> None:
    bench.add(1, 2)
    with pytest.raises(ModelNotFound):
        bench.rollouts.start("har:7", ALL, "op")
    for key in ("har", "7", "9" * 40):
        with pytest.raises(RolloutNotFound):
            bench.rollouts.show(key)
    number = bench.rollouts.start("har:1", (Ring(share=1.0, hold_s=60.0),), "op")
    with pytest.raises(RolloutUnderWay):
        bench.rollouts.start("har:2", ALL, "op")
    with pytest.raises(RolloutStateForbids):
        bench.rollouts.follow("har", "resume", "op")
    bench.rollouts.follow(str(number), "pause", "op")
    bench.sent.clear()
    bench.tick(60.0)
    assert bench.sent == [], "a pause sends nothing"
    bench.rollouts.follow("har", "resume", "op")
    bench.answer()
    bench.tick(61.0)
    bench.answer()
    bench.tick()
    assert bench.state(number) == "finished"
    with pytest.raises(RolloutUnsuitable, match="out already"):
        bench.rollouts.start("har:1", ALL, "op")


def test_a_version_that_is_out_is_rolled_out_again_for_the_boards_that_refused_it(bench: Bench) -> None:
    bench.add(1, 2)
    bench.finish()
    number = bench.rollouts.start("har:2", (Ring(share=1.0, hold_s=0.0, max_errors=0.5),), "op")
    sent, bench.sent = bench.sent, []
    for place, (device, body) in enumerate(sent):
        bench.say(device, body, "active") if place else bench.say(device, body, "refused", in_force=1)
    bench.tick()
    assert bench.state(number) == "finished"
    again = bench.rollouts.start("har:2", ALL, "op")
    assert bench.rollouts.show(str(again))["previous"] == 1
    assert len(bench.sent) == 10
