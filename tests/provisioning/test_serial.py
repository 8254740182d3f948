"""Enrolling over a cable: the real station, the real board process, the real enrolment service, and noise."""

from __future__ import annotations

import errno
import json
import os
import random
import stat
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import serial as pyserial

from argosy_client.identity import Enrolment
from argosy_common import x509
from argosy_common.clock import SystemClock
from argosy_common.errors import (
    AlreadyEnrolled,
    ArgosyError,
    NotEnrolled,
    OperatorKeyDiffers,
    PinMismatch,
    SerialGarbled,
    SerialPortBusy,
    SerialPortDenied,
    SerialPortMissing,
    SerialPortUnusable,
    SerialSilent,
    SerialUnplugged,
    SerialWrongAnswers,
    SiteDiffers,
    TokenExhausted,
)
from argosy_common.serial import exchange
from argosy_provisioning.port import StationPort
from argosy_provisioning.station import STEPS, Enrolled, Order, enrol
from tests.client.rogue_coordinator import RogueCoordinator, http
from tests.client.yard import Yard, open_yard
from tests.provisioning.bench import Board, noisy

OPERATOR, ANOTHER = x509.generate_key().public_key(), x509.generate_key().public_key()


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    yield from open_yard(tmp_path, datetime.now(UTC))


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    made = Board(tmp_path / "board")
    yield made
    made.close()


def station(yard: Yard, board: Board, token: str | None = None, **options: Any) -> Enrolled:  # noqa: ANN401  (mixed)
    """Do what `argosy-provision serial` does."""
    told = options.pop("told", lambda *_: None)
    name = options.pop("name", None)
    url, pin = options.pop("url", yard.server.url), options.pop("pin", yard.ca.pin)
    order = Order.parse(url, token or yard.token(), pin, **options)
    with StationPort(board.port, 115200) as opened:
        return enrol(opened, board.port, order, clock=SystemClock(), rng=random.Random(1), name=name, told=told)


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up on a board that does not answer after a second instead of fifteen."""
    short = exchange.Patience(first=0.2, frame=1.0)
    monkeypatch.setattr(exchange.Patience, "at", lambda _baud: short)


def test_a_board_is_enrolled_without_a_network_and_its_keys_stay_there(yard: Yard, board: Board) -> None:
    enrolled = station(yard, board, name="kitchen", site="default", operator=OPERATOR)
    there = Enrolment.load(board.folder)
    assert (there.device, there.site, there.url, there.pin) == (
        enrolled.device,
        "default",
        yard.server.url,
        yard.ca.pin,
    )
    assert there.operator == OPERATOR
    assert enrolled.operator == x509.short_fingerprint(OPERATOR)
    assert there.certificate_path.read_text() == yard.store.devices.get("kitchen").certificate_pem
    assert not (board.folder / "joining").exists()
    for path in board.folder.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert x509.in_groups(enrolled.device) in board.log, "the fingerprint is shown at the board's end too"


@pytest.mark.parametrize("seed", range(4))
def test_noise_on_the_line_does_not_matter(yard: Yard, board: Board, seed: int) -> None:
    board.cable.line = noisy(random.Random(seed))
    enrolled = station(yard, board)
    assert Enrolment.load(board.folder).device == enrolled.device
    assert yard.used() == 1


def test_silence_is_named(yard: Yard, board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch)
    board.cable.line = lambda _: b""
    with pytest.raises(SerialSilent, match=board.port):
        station(yard, board)
    assert yard.used() == 0


def test_a_wrong_baud_rate_is_named_and_the_board_bears_it(
    yard: Yard, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pseudo-terminals have no baud rate: what a mismatch makes of bytes is made here, both ways."""
    rng = random.Random(2)
    with monkeypatch.context() as patched:
        impatient(patched)
        board.cable.line = lambda data: rng.randbytes(len(data))
        board.cable.echo = True
        with pytest.raises(SerialGarbled, match="no frame"):
            station(yard, board)
    board.cable.echo = False
    board.cable.line = lambda data: data
    assert not station(yard, board).already


def test_an_echo_is_named(yard: Yard, board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch)
    board.kill()
    board.cable.echo = True
    with pytest.raises(SerialWrongAnswers):
        station(yard, board)


@pytest.mark.parametrize("call", ["write", "flush"])
def test_a_port_that_goes_away_at_any_call_is_unplugged(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Draining a port that is gone fails with an error of termios, which is no OSError."""

    def gone(*_: object) -> None:
        raise termios.error(errno.EIO, "Input/output error")

    here, there = os.openpty()
    try:
        with StationPort(os.ttyname(there), 115200) as port:
            monkeypatch.setattr(pyserial.Serial, call, gone)
            with pytest.raises(SerialUnplugged):
                port.write(b"hello")
    finally:
        os.close(here)
        os.close(there)


@pytest.mark.parametrize("step", STEPS[:5])
def test_unplugged_at_any_step_the_same_command_again_completes_it(yard: Yard, board: Board, step: str) -> None:
    token = yard.token()

    def pull(now: str, _board: object) -> None:
        if now == step:
            board.cable.unplug_after = board.cable.carried + 30

    with pytest.raises(SerialUnplugged, match=board.port):
        station(yard, board, token, operator=OPERATOR, told=pull)
    with pytest.raises(NotEnrolled):
        Enrolment.load(board.folder)
    board.cable.plug()
    enrolled = station(yard, board, token, operator=OPERATOR)
    there = Enrolment.load(board.folder)
    assert (there.device, there.operator) == (enrolled.device, OPERATOR)
    assert yard.used() == 1


def test_a_lost_confirmation_is_told_by_the_same_command(yard: Yard, board: Board) -> None:
    token = yard.token()
    first = station(yard, board, token)
    again = station(yard, board, token)
    assert (again.device, again.already) == (first.device, True)
    assert yard.used() == 1


def test_a_board_whose_power_is_cut_between_the_steps_goes_on_after_its_start(yard: Yard, board: Board) -> None:
    def cut(now: str, _board: object) -> None:
        if now == STEPS[4]:
            board.kill()
            board.start()

    enrolled = station(yard, board, told=cut)
    assert Enrolment.load(board.folder).device == enrolled.device


def test_an_enrolled_board_says_so_and_stays_as_it_is_unless_forced(yard: Yard, board: Board) -> None:
    first = station(yard, board)
    before = (board.folder / "tls.key").read_bytes()
    with pytest.raises(AlreadyEnrolled, match=first.device):
        station(yard, board)
    assert yard.used() == 1
    assert (board.folder / "tls.key").read_bytes() == before
    assert station(yard, board, force=True).device == first.device
    assert (board.folder / "tls.key").read_bytes() != before


def test_another_operators_key_is_refused_before_a_token_is_spent(yard: Yard, board: Board) -> None:
    station(yard, board, operator=OPERATOR)
    with pytest.raises(AlreadyEnrolled):
        station(yard, board, operator=ANOTHER)
    (board.folder / "enrolment.json").unlink()
    with pytest.raises(OperatorKeyDiffers, match=x509.short_fingerprint(ANOTHER)):
        station(yard, board, operator=ANOTHER)
    assert yard.used() == 1


def test_a_used_token_leaves_nothing_half_done(yard: Yard, board: Board) -> None:
    token = yard.token()
    yard.join("other", token)
    with pytest.raises(TokenExhausted):
        station(yard, board, token)
    with pytest.raises(NotEnrolled):
        Enrolment.load(board.folder)
    assert not station(yard, board).already


def test_a_token_of_another_site_is_refused_and_the_board_is_as_it_was(yard: Yard, board: Board) -> None:
    with pytest.raises(SiteDiffers, match="lab"):
        station(yard, board, site="lab")
    with pytest.raises(NotEnrolled):
        Enrolment.load(board.folder)
    assert station(yard, board, yard.token(site="lab"), site="lab").site == "lab"


def test_with_a_wrong_pin_the_token_is_not_sent(yard: Yard, board: Board) -> None:
    token = yard.token()

    def answer(request: bytes) -> Iterator[bytes]:
        yield http(200, yard.ca.pem.encode() if request.startswith(b"GET /v1/ca ") else b"")

    with RogueCoordinator(yard.ca.issue_server(["127.0.0.1"], "other"), answer) as rogue:
        with pytest.raises(PinMismatch):
            station(yard, board, token, url=rogue.url, pin="sha256:" + "0" * 64)
        assert [heard.split(b"\r\n")[0] for heard in rogue.heard] == [b"GET /v1/ca HTTP/1.1"]
        assert all(token.split(".")[1].encode() not in heard for heard in rogue.heard)
    assert yard.used() == 0


def test_the_token_never_goes_over_the_cable(yard: Yard, board: Board) -> None:
    token, heard = yard.token(), bytearray()

    def listen(data: bytes) -> bytes:
        heard.extend(data)
        return data

    board.cable.line = listen
    station(yard, board, token)
    assert b"-----BEGIN CERTIFICATE" in heard
    assert b"PRIVATE KEY" not in heard
    assert token.split(".")[1].encode() not in heard


def test_ports_that_cannot_be_opened_are_named(tmp_path: Path, board: Board) -> None:
    (tmp_path / "file").touch()
    cases: list[tuple[str, type[ArgosyError]]] = [
        (str(tmp_path / "none"), SerialPortMissing),
        (str(tmp_path / "file"), SerialPortUnusable),
    ]
    for name, kind in cases:
        with pytest.raises(kind, match=name):
            StationPort(name, 115200)
    with StationPort(board.port, 115200), pytest.raises(SerialPortBusy):
        StationPort(board.port, 115200)


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.EACCES, SerialPortDenied), (errno.EBUSY, SerialPortBusy), (errno.ENODEV, SerialPortMissing)],
)
def test_what_the_system_says_of_a_port_is_given_our_name(
    monkeypatch: pytest.MonkeyPatch, number: int, kind: type[ArgosyError]
) -> None:
    """Root may open anything, and tests may run as root."""

    def refuse(*_: object, **__: object) -> None:
        raise pyserial.SerialException(number, "no")

    monkeypatch.setattr(pyserial, "Serial", refuse)
    with pytest.raises(kind, match="/dev/ttyUSB0"):
        StationPort("/dev/ttyUSB0", 115200)


def test_the_service_ends_after_one_board_if_it_is_told_to(yard: Yard, board: Board) -> None:
    board.kill()
    board.start("--once")
    station(yard, board)
    assert board.process.wait(20) == 0


# --- as a person types it ------------------------------------------------------------------------------------------


def typed(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "argosy_provisioning.cli", *words]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=False
    )


@pytest.fixture
def told(yard: Yard) -> Callable[..., list[str]]:
    def words(token: str) -> list[str]:
        return ["--coordinator", yard.server.url, "--token", token, "--pin", yard.ca.pin]

    return words


def test_the_command_enrols_shows_the_fingerprint_and_writes_labels(
    yard: Yard, board: Board, tmp_path: Path, told: Callable[..., list[str]]
) -> None:
    token = yard.token()
    done = typed(tmp_path, "serial", board.port, *told(token), "--name", "kitchen", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    device = Enrolment.load(board.folder).device
    assert (found["device"], found["name"], found["already"]) == (device, "kitchen", False)
    assert x509.in_groups(device) in done.stderr
    text, svg, png = (tmp_path / path for path in found["labels"])
    assert x509.in_groups(device) in text.read_text()
    assert "<svg" in svg.read_text()
    assert png.read_bytes().startswith(b"\x89PNG")
    assert token.split(".")[1] not in done.stdout + done.stderr + board.log
    again = typed(tmp_path, "serial", board.port, *told(token))
    assert again.returncode == 0
    assert "\nCompare it" in again.stderr
    assert "already" in again.stderr
    other = typed(tmp_path, "serial", board.port, *told(yard.token()))
    assert other.returncode == AlreadyEnrolled.exit_code
    assert "--force" in other.stderr


def test_a_bench_is_enrolled_at_once_and_the_gravest_failure_is_the_exit_code(
    yard: Yard, tmp_path: Path, told: Callable[..., list[str]]
) -> None:
    boards = [Board(tmp_path / f"board{number}", noisy(random.Random(number))) for number in range(3)]
    try:
        ports = [board.port for board in boards]
        words = (*told(yard.token(uses=3)), "--name-prefix", "north", "--json")
        done = typed(tmp_path, "batch", *ports, str(tmp_path / "none"), *words)
        rows = json.loads(done.stdout)
        assert [row.get("name") for row in rows] == ["north-1", "north-2", "north-3", None]
        assert rows[3]["error"]["code"] == "serial-port-missing"
        assert done.returncode == SerialPortMissing.exit_code
        assert {row["device"] for row in rows[:3]} == {Enrolment.load(board.folder).device for board in boards}
        assert yard.used() == 3
    finally:
        for board in boards:
            board.close()


def test_a_slip_in_the_command_is_named_before_a_port_is_opened(tmp_path: Path) -> None:
    words = ["--coordinator", "https://c:8444", "--token", "01234567." + "A" * 32, "--pin", "sha256:00"]
    done = typed(tmp_path, "serial", "/dev/none", *words)
    assert done.returncode == 10
    assert "sha256:" in done.stderr
    assert "A" * 32 not in done.stderr
    assert typed(tmp_path, "batch", *words).returncode == 2
    assert typed(tmp_path, "--help").returncode == 0
