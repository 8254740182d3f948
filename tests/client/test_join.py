"""Joining, against the real enrolment server over real TLS, and against servers that lie."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import stat
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from argosy_client import identity, joining
from argosy_client.identity import Enrolment
from argosy_client.instance import InstanceLock
from argosy_client.join import join
from argosy_common import coordinator_https, x509
from argosy_common.clock import SystemClock
from argosy_common.errors import (
    AlreadyEnrolled,
    AlreadyRunning,
    CertificateInvalid,
    EnrolmentUnreachable,
    NotEnrolled,
    OperatorKeyDiffers,
    PinMismatch,
    SettingsInvalid,
    StorageFailed,
    TokenExhausted,
    TokenExpired,
    TokenMalformed,
    TokenUnknown,
)
from argosy_server.ca import CertificateAuthority
from tests.client.power import Fuse, PowerCut
from tests.client.rogue_coordinator import RogueCoordinator, dripping, http
from tests.client.yard import Yard, open_yard


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    yield from open_yard(tmp_path, datetime.now(UTC))


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "join.lock"}


# --- joining -------------------------------------------------------------------------------------------------------


def test_a_device_joins_and_finds_itself_enrolled_after_a_restart(yard: Yard) -> None:
    enrolment = yard.join("pi")
    assert Enrolment.load(yard.folder / "pi") == enrolment
    assert enrolment.device == yard.store.devices.get("pi").device
    assert enrolment.node_id == int(enrolment.device, 16)
    assert enrolment.brokers == (("10.0.0.5", 8883), ("board.local", 8883))
    assert (enrolment.site, enrolment.url, enrolment.pin) == ("default", yard.server.url, yard.ca.pin)
    files = enrolment.tls_files()
    assert x509.subject_cn(x509.load_certificate(files.cert)) == enrolment.device
    ssl.create_default_context().load_cert_chain(files.cert, files.key)
    for path in (yard.folder / "pi").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert not (yard.folder / "pi" / "joining").exists()


@pytest.mark.parametrize("shown", [datetime(1985, 1, 1, tzinfo=UTC), datetime(2080, 1, 1, tzinfo=UTC)])
def test_a_device_joins_whatever_its_clock_says(tmp_path: Path, shown: datetime) -> None:
    """Seen from a coordinator of 1985 the board is decades late, from one of 2080 decades early."""
    for yard in open_yard(tmp_path, shown):
        enrolment = yard.join("pi")
        not_after = x509.load_certificate(enrolment.certificate_path).not_valid_after_utc
        assert abs(not_after - shown - x509.DEVICE_LIFE) < timedelta(hours=1)
        assert Enrolment.load(yard.folder / "pi") == enrolment


def test_the_same_command_again_is_harmless_and_needs_no_network(yard: Yard) -> None:
    token = yard.token()
    first = yard.join("pi", token)
    before = _files(yard.folder / "pi")
    yard.server.stop()
    assert yard.join("pi", token) == first
    assert _files(yard.folder / "pi") == before


def test_another_token_does_not_replace_an_enrolment_unless_forced(yard: Yard) -> None:
    first = yard.join("pi")
    before = _files(yard.folder / "pi")
    with pytest.raises(AlreadyEnrolled, match=first.device):
        yard.join("pi")
    assert _files(yard.folder / "pi") == before
    assert yard.used() == 1
    second = yard.join("pi", force=True)
    after = _files(yard.folder / "pi")
    assert second.device == first.device
    assert after["identity.key"] == before["identity.key"]
    assert after["tls.key"] != before["tls.key"]


def test_a_forced_join_that_fails_leaves_the_enrolment_as_it_was(yard: Yard) -> None:
    first = yard.join("pi")
    before = _files(yard.folder / "pi")
    with pytest.raises(TokenUnknown):
        yard.join("pi", "0" * 8 + "." + "A" * 32, force=True)
    assert _files(yard.folder / "pi") == before
    assert Enrolment.load(yard.folder / "pi") == first


def test_wrong_expired_and_used_tokens_are_told_apart_and_the_identity_is_kept(yard: Yard) -> None:
    used, old = yard.token(), yard.token(ttl_s=60)
    yard.join("other", used)
    yard.clock.shift += timedelta(seconds=61)
    with pytest.raises(TokenExhausted, match="1 of 1"):
        yard.join("pi", used)
    key = (yard.folder / "pi" / "identity.key").read_bytes()
    with pytest.raises(TokenExpired):
        yard.join("pi", old)
    with pytest.raises(TokenUnknown):
        yard.join("pi", old[:9] + "A" * 32)
    with pytest.raises(NotEnrolled):
        Enrolment.load(yard.folder / "pi")
    refused = [row.subject for row in yard.store.audit.tail() if row.action == "device.enrol-refused"]
    assert refused == ["token-exhausted", "token-expired", "token-unknown"]
    yard.join("pi")
    assert (yard.folder / "pi" / "identity.key").read_bytes() == key


def test_two_devices_with_one_token_at_once_enrol_exactly_one(yard: Yard) -> None:
    token = yard.token()
    outcomes: list[str] = []

    def come(name: str) -> None:
        try:
            yard.join(name, token)
            outcomes.append("enrolled")
        except TokenExhausted as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=come, args=(f"board{n}",)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(outcomes) == ["enrolled", "token-exhausted"]
    assert len(yard.store.devices.list()) == 1
    assert yard.used() == 1


# --- the operator's key --------------------------------------------------------------------------------------------

OPERATOR, ANOTHER = x509.generate_key().public_key(), x509.generate_key().public_key()


def test_the_operators_key_is_pinned_with_the_enrolment_and_survives_a_restart(yard: Yard) -> None:
    assert yard.join("pi", operator=OPERATOR).operator == OPERATOR
    assert Enrolment.load(yard.folder / "pi").operator == OPERATOR
    assert yard.join("other").operator is None


def test_the_pin_stays_through_every_join_that_does_not_name_it(yard: Yard) -> None:
    token = yard.token()
    yard.join("pi", token, operator=OPERATOR)
    assert yard.join("pi", token).operator == OPERATOR
    assert yard.join("pi", force=True).operator == OPERATOR
    (yard.folder / "pi" / identity.RECORD).write_bytes(b"damaged")
    assert yard.join("pi", force=True).operator == OPERATOR
    (yard.folder / "pi" / identity.RECORD).unlink()
    assert yard.join("pi").operator == OPERATOR


def test_another_operators_key_is_refused_and_the_enrolment_stays_as_it_was(yard: Yard) -> None:
    token = yard.token()
    yard.join("pi", token, operator=OPERATOR)
    before = _files(yard.folder / "pi")
    with pytest.raises(OperatorKeyDiffers, match=x509.short_fingerprint(ANOTHER)) as caught:
        yard.join("pi", token, operator=ANOTHER)
    assert x509.short_fingerprint(OPERATOR) in caught.value.message
    assert _files(yard.folder / "pi") == before


def test_the_operators_key_is_replaced_by_force_only(yard: Yard) -> None:
    token = yard.token()
    yard.join("pi", token, operator=OPERATOR)
    assert yard.join("pi", token, operator=ANOTHER, force=True).operator == ANOTHER
    assert yard.join("pi", operator=OPERATOR, force=True).operator == OPERATOR
    assert Enrolment.load(yard.folder / "pi").operator == OPERATOR


def test_a_board_that_joined_without_the_operators_key_may_pin_it_later(yard: Yard) -> None:
    token = yard.token()
    yard.join("pi", token)
    yard.server.stop()
    assert yard.join("pi", token, operator=OPERATOR) == Enrolment.load(yard.folder / "pi")
    assert Enrolment.load(yard.folder / "pi").operator == OPERATOR


def test_a_join_that_fails_pins_nothing(yard: Yard) -> None:
    with pytest.raises(TokenUnknown):
        yard.join("pi", "0" * 8 + "." + "A" * 32, operator=OPERATOR)
    assert yard.join("pi").operator is None


@pytest.mark.parametrize("content", [b"", b"garbage", x509.key_pem(x509.generate_key())])
def test_a_broken_pin_never_passes_for_none(yard: Yard, content: bytes) -> None:
    token = yard.token()
    yard.join("pi", token, operator=OPERATOR)
    (yard.folder / "pi" / identity.OPERATOR_KEY).write_bytes(content)
    with pytest.raises(CertificateInvalid, match=r"operator\.pub"):
        Enrolment.load(yard.folder / "pi")
    for force in (False, True):
        with pytest.raises(CertificateInvalid):
            yard.join("pi", force=force)
    assert yard.join("pi", operator=OPERATOR, force=True).operator == OPERATOR


# --- interruptions -------------------------------------------------------------------------------------------------


class _Cutter:
    """A TCP proxy that forwards everything until the coordinator has enrolled the device, and then hangs up."""

    def __init__(self, yard: Yard) -> None:
        self._yard = yard
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.1)
        self._stopping = threading.Event()
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()
        for each in (self._listener, *self._sockets):
            each.close()

    def _serve(self) -> None:
        while not self._stopping.is_set():
            try:
                near, _ = self._listener.accept()
            except TimeoutError:
                continue
            far = socket.create_connection(self._yard.server.address, 20)
            self._sockets += [near, far]
            for source, sink in ((near, far), (far, near)):
                self._threads.append(threading.Thread(target=self._pump, args=(source, sink)))
                self._threads[-1].start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while (piece := source.recv(65536)) and not self._yard.used():
                sink.sendall(piece)
        for end in (source, sink):
            with contextlib.suppress(OSError):  # the other direction may have ended it already
                end.shutdown(socket.SHUT_RDWR)


def test_a_lost_answer_costs_nothing_the_same_command_gets_the_same_certificate(yard: Yard) -> None:
    token = yard.token()
    cutter = _Cutter(yard)
    with pytest.raises(EnrolmentUnreachable):
        join(cutter.url, token, yard.ca.pin, yard.folder / "pi", "pi", clock=SystemClock())
    cutter.close()
    assert yard.used() == 1
    enrolment = yard.join("pi", token)
    assert yard.used() == 1
    assert enrolment.certificate_path.read_text() == yard.store.devices.get("pi").certificate_pem


@pytest.mark.parametrize("operator", [None, OPERATOR], ids=["without an operator", "with an operator"])
@pytest.mark.parametrize("force", [False, True])
def test_a_join_interrupted_between_any_two_changes_of_files_is_completed_by_a_repeat(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, force: bool, operator: x509.PublicKey | None
) -> None:
    cuts = 0
    while True:
        name, token = f"pi{cuts}", None
        before = yard.join(name) if force else None
        token, used = yard.token(), yard.used()
        with monkeypatch.context() as patched:
            fuse = Fuse(patched, cuts)
            try:
                yard.join(name, token, force=force, operator=operator)
            except PowerCut:
                assert fuse.blown
        if not fuse.blown:
            break
        try:
            half = Enrolment.load(yard.folder / name)  # whole: the old one or the new one
            assert half.token_id in (token[:8], before.token_id if before else None)
            assert half.token_id != token[:8] or half.operator == operator, "enrolled, and without the pin"
        except NotEnrolled:
            assert not (yard.folder / name / identity.RECORD).exists()
        enrolment = yard.join(name, token, force=force, operator=operator)
        assert Enrolment.load(yard.folder / name) == enrolment
        assert enrolment.operator == operator
        assert enrolment.token_id == token[:8]
        assert before is None or enrolment.device == before.device
        assert yard.used() == used + 1
        assert not (yard.folder / name / "joining").exists()
        cuts += 1
    assert cuts >= 8


def test_a_broken_leftover_of_an_interrupted_join_is_made_anew(yard: Yard) -> None:
    for broken in ("tls.key", "request.pem"):
        folder = yard.folder / broken / "joining"
        folder.mkdir(parents=True)
        (folder / broken).write_bytes(b"\0" * 100)
        assert yard.join(broken).device


def test_a_broken_identity_key_is_a_named_error_and_is_kept(yard: Yard) -> None:
    (yard.folder / "pi").mkdir()
    (yard.folder / "pi" / "identity.key").write_bytes(b"scratched")
    for force in (False, True):
        with pytest.raises(CertificateInvalid, match=r"identity\.key"):
            yard.join("pi", force=force)
    assert (yard.folder / "pi" / "identity.key").read_bytes() == b"scratched"


def test_a_second_join_on_the_same_directory_is_kept_out(yard: Yard) -> None:
    (yard.folder / "pi").mkdir()
    with joining.alone(yard.folder / "pi"), pytest.raises(AlreadyRunning, match=str(os.getpid())):
        yard.join("pi")
    yard.join("pi")


def test_a_state_directory_that_cannot_be_made_is_a_named_error(yard: Yard) -> None:
    (yard.folder / "taken").write_text("a file")
    with pytest.raises(StorageFailed, match="taken"):
        yard.join("taken")
    assert yard.used() == 0


# --- servers that lie ----------------------------------------------------------------------------------------------


def _rogue(yard: Yard, ca_pem: str, answers: Callable[[bytes], Iterator[bytes]] | None = None) -> RogueCoordinator:
    """A server under a certificate of its own authority, which shows `ca_pem`."""
    own = CertificateAuthority.open(yard.folder / "rogue", yard.clock)

    def answer(request: bytes) -> Iterator[bytes]:
        if request.startswith(b"GET /v1/ca "):
            yield http(200, ca_pem.encode())
        elif answers is not None:
            yield from answers(request)

    return RogueCoordinator(own.issue_server(["127.0.0.1"]), answer)


def _join_rogue(yard: Yard, rogue: RogueCoordinator, token: str, pin: str) -> Enrolment:
    return join(rogue.url, token, pin, yard.folder / "pi", "pi", clock=SystemClock())


def test_with_a_wrong_pin_nothing_is_sent(yard: Yard) -> None:
    token = yard.token()
    own = CertificateAuthority.open(yard.folder / "rogue", yard.clock)
    with _rogue(yard, own.pem) as rogue, pytest.raises(PinMismatch) as caught:
        _join_rogue(yard, rogue, token, yard.ca.pin)
    assert own.pin in caught.value.message
    assert [heard.split(b"\r\n")[0] for heard in rogue.heard] == [b"GET /v1/ca HTTP/1.1"]
    for heard in rogue.heard:
        assert token.encode() not in heard
        assert token.split(".")[1].encode() not in heard
    with pytest.raises(PinMismatch):
        yard.join("pi", token, pin="sha256:" + "0" * 64)
    assert yard.store.audit.tail() == []
    assert yard.used() == 0


def test_a_server_that_shows_the_right_authority_without_belonging_to_it_is_sent_nothing(yard: Yard) -> None:
    token = yard.token()
    with _rogue(yard, yard.ca.pem) as rogue, pytest.raises(PinMismatch):
        _join_rogue(yard, rogue, token, yard.ca.pin)
    assert [heard.split(b" ")[0] for heard in rogue.heard if heard] == [b"GET"]


def test_an_authority_with_the_pinned_key_and_another_signature_is_not_believed(yard: Yard) -> None:
    """The pin names a key: whoever does not hold it cannot put words into the authority's mouth."""
    thief = x509.generate_key()
    forged = x509.self_signed_ca(thief, "Argosy CA", yard.clock.wall())
    der = x509.certificate_pem(forged)
    assert x509.spki_pin(forged) != yard.ca.pin
    with _rogue(yard, der.decode()) as rogue, pytest.raises(PinMismatch):
        _join_rogue(yard, rogue, yard.token(), yard.ca.pin)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"not http at all\r\n\r\n",
        http(200, b""),
        http(404, b"<html>"),
        http(200, b"x" * 200_000),
        http(500, b"\xff"),
    ],
)
def test_something_else_at_that_address_is_named_as_such(yard: Yard, answer: bytes) -> None:
    own = CertificateAuthority.open(yard.folder / "rogue", yard.clock)
    with (
        RogueCoordinator(own.issue_server(["127.0.0.1"]), lambda _: iter([answer])) as rogue,
        pytest.raises(EnrolmentUnreachable, match=rogue.url),
    ):
        _join_rogue(yard, rogue, yard.token(), yard.ca.pin)


def test_a_server_that_drips_is_given_up(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator_https, "EXCHANGE_TIMEOUT_S", 0.5)
    own = CertificateAuthority.open(yard.folder / "rogue", yard.clock)
    drip = http(200, own.pem.encode())
    with (
        RogueCoordinator(own.issue_server(["127.0.0.1"]), lambda _: dripping(drip, 0.1)) as rogue,
        pytest.raises(EnrolmentUnreachable),
    ):
        _join_rogue(yard, rogue, yard.token(), own.pin)


def test_a_closed_port_and_a_server_without_tls_are_named(yard: Yard) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(EnrolmentUnreachable, match=str(port)):
        join(f"https://127.0.0.1:{port}", yard.token(), yard.ca.pin, yard.folder / "pi", "pi", clock=SystemClock())
    with socket.create_server(("127.0.0.1", 0)) as plain:

        def hang_up() -> None:
            connection, _ = plain.accept()
            connection.sendall(b"220 ready\r\n")
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        url = f"https://127.0.0.1:{plain.getsockname()[1]}"
        with pytest.raises(EnrolmentUnreachable):
            join(url, yard.token(), yard.ca.pin, yard.folder / "pi", "pi", clock=SystemClock())
        thread.join(20)


_WRONG_ANSWERS: dict[str, Callable[[dict[str, Any], CertificateAuthority], object]] = {
    "no JSON": lambda _good, _ca: "<html>",
    "another device": lambda good, _ca: good | {"device": "ab" * 8},
    "another node id": lambda good, _ca: good | {"node_id": 7},
    "no certificate": lambda good, _ca: good | {"certificate_pem": "x"},
    "another key": lambda good, ca: (
        good
        | {
            "certificate_pem": x509.chain_pem(
                *ca.issue_device(good["device"], x509.generate_key().public_key())
            ).decode()
        }
    ),
    "no brokers": lambda good, _ca: good | {"brokers": []},
    "a port of nowhere": lambda good, _ca: good | {"brokers": [{"host": "x", "port": 70000}]},
    "a site that reaches into topics": lambda good, _ca: good | {"site": "a/#"},
    "more than agreed": lambda good, _ca: good | {"extra": 1},
}


@pytest.mark.parametrize("wrong", list(_WRONG_ANSWERS))
def test_an_answer_that_would_not_work_afterwards_is_not_written(yard: Yard, wrong: str) -> None:
    """The server here belongs to the pinned authority; what it says is still checked."""
    token = yard.token()

    def answer(request: bytes) -> Iterator[bytes]:
        if request.startswith(b"GET"):
            yield http(200, yard.ca.pem.encode())
            return
        good = yard.server._service.enrol(request.partition(b"\r\n\r\n")[2], "127.0.0.1").model_dump()
        told = _WRONG_ANSWERS[wrong](good, yard.ca)
        yield http(200, told.encode() if isinstance(told, str) else json.dumps(told).encode())

    files = yard.ca.issue_server(["127.0.0.1"], "liar")
    with RogueCoordinator(files, answer) as rogue, pytest.raises(EnrolmentUnreachable, match="cannot be used"):
        _join_rogue(yard, rogue, token, yard.ca.pin)
    with pytest.raises(NotEnrolled):
        Enrolment.load(yard.folder / "pi")
    assert yard.join("pi", token).token_id == token[:8]


# --- what a person types -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "token", "pin", "kind"),
    [
        ("http://h:1", None, None, SettingsInvalid),
        ("", None, None, SettingsInvalid),
        ("https://h:99999", None, None, SettingsInvalid),
        ("https://h/path", None, None, SettingsInvalid),
        ("https://[::1", None, None, SettingsInvalid),
        (None, "", None, TokenMalformed),
        (None, "abc.def", None, TokenMalformed),
        (None, "ABCDEF01." + "A" * 32, None, TokenMalformed),
        (None, None, "", SettingsInvalid),
        (None, None, "sha1:00", SettingsInvalid),
        (None, None, "sha256:" + "g" * 64, SettingsInvalid),
    ],
)
def test_a_slip_in_the_command_is_named_before_anything_happens(
    tmp_path: Path, url: str | None, token: str | None, pin: str | None, kind: type[Exception]
) -> None:
    with pytest.raises(kind) as caught:
        join(
            "https://127.0.0.1:1" if url is None else url,
            "01234567." + "A" * 32 if token is None else token,
            "sha256:" + "0" * 64 if pin is None else pin,
            tmp_path / "pi",
            "pi",
            clock=SystemClock(),
        )
    assert "A" * 32 not in str(caught.value)
    assert not (tmp_path / "pi").exists()


@pytest.mark.parametrize("text", ["{url}", "{url}/", "{bare}", " {url} "])
def test_an_address_may_be_written_in_several_ways(yard: Yard, text: str) -> None:
    url = yard.server.url
    written = text.format(url=url, bare=url.removeprefix("https://"))
    got = join(
        f"{written}",
        yard.token(),
        yard.ca.pin.upper().replace("SHA", "sha"),
        yard.folder / "pi",
        "pi",
        clock=SystemClock(),
    )
    assert got.url == url


@pytest.mark.parametrize("name", ["", "x" * 5000, "\ud800\0", "Küche/1 🍕"])
def test_a_name_may_be_anything(yard: Yard, name: str) -> None:
    enrolment = join(yard.server.url, yard.token(), yard.ca.pin, yard.folder / "pi", name, clock=SystemClock())
    assert yard.store.devices.get(enrolment.device).name


# --- the enrolment on disk -----------------------------------------------------------------------------------------


def test_files_that_do_not_belong_together_are_named(yard: Yard) -> None:
    yard.join("pi")
    yard.join("other")
    for name in ("identity.key", "tls.key", "device.crt"):
        path = yard.folder / "pi" / name
        good = path.read_bytes()
        for bad in ((yard.folder / "other" / name).read_bytes(), b"", good[:100]):
            path.write_bytes(bad)
            with pytest.raises(CertificateInvalid):
                Enrolment.load(yard.folder / "pi")
        path.write_bytes(good)
    stranger = x509.self_signed_ca(x509.generate_key(), "another", yard.clock.wall())
    (yard.folder / "pi" / "ca.crt").write_bytes(x509.certificate_pem(stranger))
    with pytest.raises(CertificateInvalid, match="another authority"):
        Enrolment.load(yard.folder / "pi")


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[" * 10_000, b'{"device": "../../etc"}'])
def test_a_broken_record_is_named_and_force_replaces_it(yard: Yard, content: bytes) -> None:
    first = yard.join("pi")
    (yard.folder / "pi" / identity.RECORD).write_bytes(content)
    with pytest.raises(CertificateInvalid, match="enrolment"):
        Enrolment.load(yard.folder / "pi")
    with pytest.raises(CertificateInvalid):
        yard.join("pi")
    assert yard.join("pi", force=True).device == first.device


def test_a_directory_without_an_enrolment_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(NotEnrolled, match=str(path)):
            Enrolment.load(path)


def test_the_enrolment_of_a_daemon_that_runs_is_not_replaced(yard: Yard) -> None:
    """It would go on with the old certificate and journal, and meet the new ones at its next connection."""
    yard.join("pi")
    before = _files(yard.folder / "pi")
    lock = InstanceLock(yard.folder / "pi")
    try:
        with pytest.raises(AlreadyRunning, match=f"process {os.getpid()}"):
            yard.join("pi", force=True)
    finally:
        lock.release()
    after = _files(yard.folder / "pi")
    assert all(after[name] == content for name, content in before.items() if name != "join.lock")
    yard.join("pi", force=True)
