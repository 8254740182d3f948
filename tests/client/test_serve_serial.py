"""The board's desk: whatever a station asks and whenever the power goes, enrolled or not, and never half."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy_client import identity
from argosy_client.identity import Enrolment
from argosy_client.serve_serial import Desk
from argosy_client.settings import load_settings, shown_name
from argosy_common import x509
from argosy_common.clock import SystemClock
from argosy_common.errors import EnrolmentUnreachable, NotEnrolled
from argosy_common.serial.exchange import Answerer
from argosy_common.serial.frames import FrameDecoder, FrameType, encode, fragments
from argosy_common.serial.messages import Failed, Hello, Install, Installed, Prepare, Prepared, read_answer, write
from argosy_provisioning.station import Enrolled, Order, enrol
from tests.client.power import Fuse, PowerCut
from tests.client.yard import Yard, open_yard

OPERATOR = x509.generate_key().public_key()


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    yield from open_yard(tmp_path, datetime.now(UTC))


class Cable:
    """A `BytePort` with a desk at its other end."""

    def __init__(self, folder: Path) -> None:
        self.settings = load_settings(None, state_dir=folder)
        self.desk = Desk(self.settings)
        self._answerer, self._decoder, self._coming = Answerer(self.desk.handle), FrameDecoder(), b""

    def read(self, timeout_s: float) -> bytes:  # noqa: ARG002  (a `BytePort`; nothing to wait for)
        data, self._coming = self._coming, b""
        return data

    def write(self, data: bytes) -> None:
        for frame in self._decoder.feed(data):
            answer = self._answerer.take(frame)
            self._coming += encode(answer) if answer else b""

    def enrol(self, yard: Yard, token: str, *, force: bool = False) -> Enrolled:
        order = Order.parse(yard.server.url, token, yard.ca.pin, operator=OPERATOR, force=force)
        return enrol(self, "cable", order, clock=SystemClock(), rng=random.Random(1), name="kitchen")


@pytest.mark.parametrize("force", [False, True])
def test_the_power_goes_between_any_two_changes_of_files_and_a_repeat_completes_it(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    cuts = 0
    while True:
        folder = yard.folder / f"pi{cuts}"
        before = yard.join(folder.name) if force else None
        token, used = yard.token(), yard.used()
        with monkeypatch.context() as patched:
            fuse = Fuse(patched, cuts)
            try:
                Cable(folder).enrol(yard, token, force=force)
            except PowerCut:
                assert fuse.blown
        if not fuse.blown:
            break
        try:
            half = Enrolment.load(folder)  # whole: the old one or the new one
            assert half.token_id in (token[:8], before.token_id if before else None)
            assert half.token_id != token[:8] or half.operator == OPERATOR, "enrolled, and without the pin"
        except NotEnrolled:
            assert not (folder / identity.RECORD).exists()
        enrolled = Cable(folder).enrol(yard, token, force=force)
        there = Enrolment.load(folder)
        assert (there.device, there.token_id, there.operator) == (enrolled.device, token[:8], OPERATOR)
        assert before is None or there.device == before.device
        assert yard.used() == used + 1
        assert not (folder / "joining").exists()
        cuts += 1
    assert cuts >= 9


def test_the_name_that_the_station_gave_is_kept(yard: Yard) -> None:
    cable = Cable(yard.folder / "pi")
    assert cable.enrol(yard, yard.token()).name == "kitchen"
    assert shown_name(cable.settings) == "kitchen"
    assert yard.store.devices.get("kitchen").device == Enrolment.load(yard.folder / "pi").device


def test_asking_who_is_there_writes_nothing(tmp_path: Path) -> None:
    Desk(load_settings(None, state_dir=tmp_path / "pi")).handle(write(Hello()))
    assert not (tmp_path / "pi").exists()


def test_an_answer_that_would_not_work_afterwards_is_not_written(yard: Yard) -> None:
    """A station that lies can only make a board refuse."""
    desk = Desk(load_settings(None, state_dir=yard.folder / "pi"))
    order = Order.parse(yard.server.url, yard.token(), yard.ca.pin)
    invitation = order.invitation()
    prepared = read_answer(desk.handle(write(Prepare(invitation=invitation))))
    assert isinstance(prepared, Prepared)
    body = {"token": f"{order.token.id}.{order.token.secret}", **prepared.model_dump(exclude={"kind"})}
    good = yard.server._service.enrol(json.dumps(body).encode(), "127.0.0.1")
    thief = x509.certificate_pem(x509.self_signed_ca(x509.generate_key(), "thief", datetime.now(UTC))).decode()
    for wrong in ({"ca_pem": thief}, {"ca_pem": "x"}, {"device": "ab" * 8}, {"node_id": 7}, {"certificate_pem": thief}):
        install = Install(invitation=invitation, answer=good.model_copy(update=wrong))
        told = read_answer(desk.handle(write(install)))
        assert isinstance(told, Failed)
        assert told.error.code == EnrolmentUnreachable.code, wrong
        with pytest.raises(NotEnrolled):
            Enrolment.load(yard.folder / "pi")
    assert isinstance(read_answer(desk.handle(write(Install(invitation=invitation, answer=good)))), Installed)


@given(st.binary(max_size=300))
def test_no_request_ends_the_desk(body: bytes) -> None:
    told = read_answer(Desk(load_settings(None, state_dir=Path("/nonexistent/pi"))).handle(body))
    assert isinstance(told, Failed)


def test_a_state_directory_that_cannot_be_made_is_told_over_the_cable(yard: Yard) -> None:
    (yard.folder / "file").touch()
    desk = Desk(load_settings(None, state_dir=yard.folder / "file"))
    invitation = Order.parse("https://c", yard.token(), yard.ca.pin).invitation()
    told = read_answer(desk.handle(write(Prepare(invitation=invitation))))
    assert isinstance(told, Failed)
    assert told.error.code == "storage-failed"


def test_standard_input_and_output_are_a_port_too(tmp_path: Path) -> None:
    asked = b"".join(encode(frame) for frame in fragments(FrameType.ASK, 1, write(Hello())))
    command = [sys.executable, "-m", "argosy_client.cli", "serve-serial", "--port", "-", "--state-dir", str(tmp_path)]
    done = subprocess.run(command, input=asked, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    (have,) = FrameDecoder().feed(done.stdout)
    assert have.type.name == "HAVE"


def test_a_port_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    words = ["serve-serial", "--state-dir", str(tmp_path), "--port"]
    command = [sys.executable, "-m", "argosy_client.cli", *words, str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 103
    assert "no terminal" in done.stderr
