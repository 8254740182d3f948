"""The first boot from a flashed card, against the real enrolment server."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from argosy_client import first_boot as boot
from argosy_client.identity import Enrolment
from argosy_client.join import join as really_join
from argosy_client.settings import load_settings, shown_name
from argosy_common import x509
from argosy_common.backoff import Backoff
from argosy_common.clock import SystemClock
from argosy_common.enrolment_file import FILE, NOTE, PLACES, EnrolmentFile
from argosy_common.errors import (
    ArgosyError,
    EnrolmentFileInvalid,
    EnrolmentFileKept,
    EnrolmentUnreachable,
    PinMismatch,
    TokenExhausted,
    TokenExpired,
    TokenMalformed,
    TokenUnknown,
)
from argosy_common.files import write_atomic
from tests.client.power import Fuse, PowerCut
from tests.client.yard import SetClock, Yard, open_yard

OPERATOR = x509.generate_key().public_key()
SERIAL = "10000000abcdef01"


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    yield from open_yard(tmp_path, datetime.now(UTC))


class Board:
    """A board's file system, with a card in it."""

    def __init__(self, yard: Yard, name: str = "board", place: str = PLACES[0]) -> None:
        self.yard = yard
        self.root = yard.folder / name
        self.state = self.root / "var/lib/argosy-device"
        self.file = self.root / place / FILE
        self.note = self.file.with_name(NOTE)
        self.token = ""
        tree = self.root / "proc/device-tree"
        for folder in (self.file.parent, tree):
            folder.mkdir(parents=True)
        (tree / "serial-number").write_bytes(f"{SERIAL}\0".encode())

    def insert(self, token: str | None = None, **fields: Any) -> str:  # noqa: ANN401  (of EnrolmentFile)
        self.token = token or self.yard.token()
        what = {"url": self.yard.server.url, "token": self.token, "pin": self.yard.ca.pin, **fields}
        self.file.write_text(EnrolmentFile.model_validate(what).toml())
        return self.token

    def boot(self, wait_s: float = 0.0, sleep: Callable[[float], None] | None = None) -> Enrolment:
        found = boot.find(self.root)
        assert found == self.file
        backoff = Backoff(random.Random(1), base=0.01)
        patience = boot.Patience(wait_s, SystemClock(), backoff, sleep or (lambda _: None))
        return boot.first_boot(found, patience=patience, root=self.root, state_dir=self.state)

    @property
    def enrolled(self) -> bool:
        return (self.state / "enrolment.json").exists()


@pytest.fixture
def board(yard: Yard) -> Board:
    return Board(yard)


def test_a_board_joins_by_itself_and_the_file_is_gone(board: Board) -> None:
    pem = x509.public_pem(OPERATOR).decode()
    board.insert(name="pi-{serial}", operator_key=pem, site="north", shard="a")
    enrolment = board.boot()
    assert Enrolment.load(board.state) == enrolment
    assert enrolment.operator == OPERATOR
    assert board.yard.store.devices.get(f"pi-{SERIAL}").device == enrolment.device
    settings = load_settings(board.root / "etc/argosy/device.toml", state_dir=board.state)
    assert (settings.site, settings.shard, shown_name(settings)) == ("north", "a", f"pi-{SERIAL}")
    assert not list(board.file.parent.iterdir())


@pytest.mark.parametrize("place", PLACES)
def test_the_file_is_found_where_cards_and_cloud_init_put_it(yard: Yard, place: str) -> None:
    board = Board(yard, place=place)
    board.insert()
    board.boot()
    assert not board.file.exists()


def test_settings_that_are_there_are_left_alone(board: Board) -> None:
    settings = board.root / "etc/argosy/device.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text('site = "south"\n')
    board.insert(site="north")
    board.boot()
    assert settings.read_text() == 'site = "south"\n'


def test_settings_that_say_nothing_of_a_place_get_it_and_keep_the_rest(board: Board) -> None:
    settings = board.root / "etc/argosy/device.toml"
    settings.parent.mkdir(parents=True)
    shipped = (Path(__file__).parents[2] / "packaging/config/device.toml").read_text()
    settings.write_text(shipped)
    board.insert(site="north", shard="a")
    board.boot()
    assert settings.read_text() == f'site = "north"\nshard = "a"\n{shipped}'
    read = load_settings(settings, state_dir=board.state)
    assert (read.site, read.shard, read.inference.socket) == ("north", "a", Path("/run/argosy-device/inference.sock"))


def test_the_bytes_are_overwritten_before_the_file_goes(board: Board) -> None:
    token = board.insert()
    witness = board.root / "witness"
    os.link(board.file, witness)
    board.boot()
    assert token.encode() not in witness.read_bytes()
    assert not witness.read_bytes().strip(b"\0")


def test_what_root_writes_belongs_to_the_daemons_user(board: Board) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    board.state.mkdir(parents=True, mode=0o700)
    os.chown(board.state, 12345, 12345)
    board.insert()
    board.boot()
    assert {path.stat().st_uid for path in board.state.rglob("*")} == {12345}


# --- the network ---------------------------------------------------------------------------------------------------


def test_a_coordinator_that_is_down_is_waited_for_within_bounds_and_the_file_stays(board: Board) -> None:
    token = board.insert()
    board.yard.server.stop()
    slept: list[float] = []
    clock = SetClock(datetime.now(UTC))
    clock.monotonic = lambda: sum(slept)  # type: ignore[method-assign]  # time passes by sleeping only
    patience = boot.Patience(40.0, clock, Backoff(random.Random(1), base=1.0, cap=10.0, floor=0.5), slept.append)
    with pytest.raises(EnrolmentUnreachable):
        boot.first_boot(board.file, patience=patience, root=board.root, state_dir=board.state)
    assert len(slept) > 3
    assert 10 < sum(slept) <= 40
    assert EnrolmentFile.read(board.file).token == token
    assert "tries again by itself" in board.note.read_text()


def test_a_network_that_comes_late_is_enough(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    board.insert()
    board.note.write_text("of the boot before")
    tried: list[str] = []

    def join(url: str, *args: Any, **options: Any) -> Enrolment:  # noqa: ANN401  (of join)
        tried.append(url)
        if len(tried) < 3:
            raise EnrolmentUnreachable(url=url, why="network is unreachable")
        return really_join(url, *args, **options)

    monkeypatch.setattr(boot, "join", join)
    board.boot(60.0)
    assert len(tried) == 3
    assert not board.file.exists()
    assert not board.note.exists(), "a note of the past misleads"


def test_a_coordinator_that_is_another_gets_no_token_and_the_file_stays(board: Board) -> None:
    board.insert(pin="sha256:" + "0" * 64)
    with pytest.raises(PinMismatch):
        board.boot()
    assert board.file.exists()
    assert "another certificate authority" in board.note.read_text()


# --- tokens that are of no use -------------------------------------------------------------------------------------


def _used(yard: Yard) -> str:
    token = yard.token()
    yard.join("other", token)
    return token


def _expired(yard: Yard) -> str:
    token = yard.token(ttl_s=60)
    yard.store.tokens.revoke(token[:8])
    return token


@pytest.mark.parametrize(
    ("make", "error"),
    [(_used, TokenExhausted), (_expired, TokenExpired), (lambda _: "0" * 8 + "." + "A" * 32, TokenUnknown)],
    ids=["used", "expired", "unknown"],
)
def test_a_dead_token_is_erased_and_a_note_says_why(
    board: Board, make: Callable[[Yard], str], error: type[ArgosyError]
) -> None:
    token = board.insert(make(board.yard))
    with pytest.raises(error) as caught:
        board.boot(60.0)
    assert not board.file.exists()
    note = board.note.read_text()
    assert caught.value.message in note
    assert "argosy-provision image" in note
    assert token[9:] not in note
    board.insert()
    board.boot()
    assert not board.note.exists()


# --- files that are of no use, and boards that need none -----------------------------------------------------------


def test_a_board_that_is_enrolled_already_erases_the_file_and_keeps_its_enrolment(board: Board) -> None:
    board.insert()
    first = board.boot()
    board.insert()
    assert board.boot() == first
    assert not board.file.exists()
    assert board.yard.used() == 1


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", EnrolmentFileInvalid),
        (b"\xff", EnrolmentFileInvalid),
        (b"url = 1", EnrolmentFileInvalid),
        (b"url =", EnrolmentFileInvalid),
        (b"{valid}colour = 'blue'\n", EnrolmentFileInvalid),
        (b"{valid}shard = 'a b'\n", EnrolmentFileInvalid),
        (b"{valid}operator_key = 'x'\n", EnrolmentFileInvalid),
        (b"{valid}name = 'pi-{wrong}'\n", EnrolmentFileInvalid),
        (b"token = 'secret-that-is-none'", TokenMalformed),
    ],
)
def test_a_file_with_a_mistake_is_kept_and_named_without_its_token(
    board: Board, content: bytes, error: type[ArgosyError]
) -> None:
    token = board.insert()
    content = content.replace(b"{valid}", board.file.read_bytes())
    board.file.write_bytes(content)
    with pytest.raises(error) as caught:
        board.boot()
    assert board.file.read_bytes() == content
    for secret in (token[9:], "secret-that-is-none"):
        assert secret not in caught.value.message + board.note.read_text()


def test_a_card_that_was_pulled_too_early_is_told_of(board: Board) -> None:
    board.file.write_bytes(bytes(300))
    with pytest.raises(EnrolmentFileInvalid):
        board.boot()
    assert not board.file.exists()
    assert "before you pull it" in board.note.read_text()


def test_a_file_that_cannot_be_erased_is_told_of(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    board.insert()

    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", read_only)
        patched.setattr("argosy_client.joining.forget", lambda _: None)
        with pytest.raises(EnrolmentFileKept, match="Read-only"):
            board.boot()
    assert board.enrolled
    board.boot()
    assert not board.file.exists()


def test_a_field_survives_the_way_through_the_file(tmp_path: Path) -> None:
    wanted = EnrolmentFile(
        url="https://[fe80::1]:8444",
        token="0" * 8 + "." + "-_" * 16,
        pin="sha256:" + "0" * 64,
        name='Küche "1" \\ 🍕 {serial}',
        operator_key=x509.public_pem(OPERATOR).decode(),
        site="north",
    )
    (tmp_path / FILE).write_text(wanted.toml())
    assert EnrolmentFile.read(tmp_path / FILE) == wanted
    assert wanted.token not in repr(wanted)
    assert wanted.board_name("") is None
    short = EnrolmentFile(url="10.0.0.5", token=wanted.token, pin=wanted.pin)
    assert short.url == "https://10.0.0.5:8444", "as `argosy-device join` takes it"


# --- power cuts ----------------------------------------------------------------------------------------------------


class _Fuse(Fuse):
    """Counts flushed writes too: a file that is overwritten in place is neither old nor new before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, allowed: int) -> None:
        super().__init__(monkeypatch, allowed)
        real = os.fsync

        def fsync(handle: int) -> None:
            if self.left == 0:
                self.blown = True
                raise PowerCut
            self.left -= 1
            real(handle)

        monkeypatch.setattr(os, "fsync", fsync)


def _until_no_cut(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, prepare: Callable[[Board], None]
) -> Iterator[tuple[Board, bool]]:
    """Yield a board for each step at which the power may be cut, and whether it was."""
    for cuts in range(200):
        board = Board(yard, f"board{cuts}")
        prepare(board)
        with monkeypatch.context() as patched:
            fuse = _Fuse(patched, cuts)
            try:
                board.boot()
            except PowerCut:
                assert fuse.blown
            except TokenExhausted:
                assert not fuse.blown
        yield board, fuse.blown
        if not fuse.blown:
            return
    raise AssertionError("it never came through")


def test_a_boot_that_is_cut_short_anywhere_is_completed_by_the_next(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(board: Board) -> None:
        board.insert(name="pi-{serial}", site="north", operator_key=x509.public_pem(OPERATOR).decode())

    steps = 0
    for board, cut in _until_no_cut(yard, monkeypatch, prepare):
        if board.file.exists():
            assert cut
            board.boot()
        steps += 1
        assert Enrolment.load(board.state).operator == OPERATOR
        assert (board.root / "etc/argosy/device.toml").read_text() == 'site = "north"\n'
        assert (board.state / "name").read_text() == f"pi-{SERIAL}"
        assert board.yard.used() == steps
        assert board.token[9:].encode() not in b"".join(p.read_bytes() for p in board.file.parent.iterdir())
    assert steps > 20


def test_a_refusal_that_is_cut_short_anywhere_still_leaves_a_note_and_no_token(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = _used(yard)
    time = itertools.count(yard.clock.monotonic(), 100.0)
    monkeypatch.setattr(yard.clock, "monotonic", lambda: next(time))  # so many refusals are too many attempts

    def prepare(board: Board) -> None:
        board.insert(token)

    for board, _ in _until_no_cut(yard, monkeypatch, prepare):
        if board.file.exists():
            with pytest.raises((TokenExhausted, EnrolmentFileInvalid)):
                board.boot()
        assert "already used 1 of 1" in board.note.read_text()
        assert not board.file.exists()
        assert not board.enrolled


# --- as the unit calls it ------------------------------------------------------------------------------------------


def typed(board: Board, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "argosy_client.cli", "first-boot", "--root", str(board.root), *words]
    command += ["--state-dir", str(board.state)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_joins_and_does_nothing_the_second_time(board: Board) -> None:
    token = board.insert()
    done = typed(board)
    assert done.returncode == 0, done.stderr
    assert board.enrolled
    assert not board.file.exists()
    assert token[9:] not in done.stdout + done.stderr
    again = typed(board)
    assert (again.returncode, again.stdout) == (0, "There is no enrolment file: nothing to do.\n")


def test_the_command_ends_in_time_with_the_errors_code(board: Board) -> None:
    token = board.insert()
    board.yard.server.stop()
    done = typed(board, "--wait", "1")
    assert done.returncode == EnrolmentUnreachable.exit_code
    assert board.file.exists()
    assert token[9:] not in done.stdout + done.stderr
    write_atomic(board.file, b"url = 1")
    assert typed(board).returncode == EnrolmentFileInvalid.exit_code
