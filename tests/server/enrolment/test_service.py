"""Who is let in, by the service itself: one thing wrong at a time."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from argosy_common import x509
from argosy_common.enrolment import MAX_BODY, EnrolAnswer
from argosy_common.errors import (
    ApprovalPending,
    ArgosyError,
    BoardEnrolled,
    DeviceRefused,
    DeviceStateForbids,
    RequestExpired,
    RequestInvalid,
    TokenExhausted,
    TokenExpired,
    TokenMalformed,
    TokenUnknown,
    TooManyAttempts,
)
from argosy_server.ca import CertificateAuthority
from argosy_server.enrolment import EnrolmentService
from argosy_server.enrolment.rate import Doorkeeper
from argosy_server.store import DeviceState, Store
from argosy_server.store.enrolments import Claim
from tests.server.enrolment.conftest import SetClock

SOURCE = "192.0.2.7"
Change = Callable[[dict[str, Any]], None]


class Board:
    """A device with its two keys."""

    def __init__(self) -> None:
        self.identity = x509.generate_identity_key()
        self.tls = x509.generate_key()
        self.csr = x509.make_csr(self.tls, "CN that is ignored")
        self.device = x509.device_id(self.identity.public_key())

    def body(self, text: str, /, **changes: object) -> bytes:
        csr = x509.csr_der(x509.verify_csr(self.csr))
        request = {
            "token": text,
            "csr_pem": self.csr.decode(),
            "identity_public_pem": x509.public_pem(self.identity.public_key()).decode(),
            "identity_signature": x509.sign_enrolment(self.identity, csr).hex(),
            "name": "pi",
            "inventory": {"machine": "aarch64", "cores": 4, "version": "0.1.0"},
        }
        return json.dumps({**request, **changes}).encode()


@pytest.fixture
def service(store: Store, ca: CertificateAuthority, clock: SetClock) -> EnrolmentService:
    return EnrolmentService(store, ca, doorkeeper=Doorkeeper(clock), brokers=lambda: [("10.0.0.5", 8883)])


def _refused(service: EnrolmentService, store: Store, body: bytes, kind: type[ArgosyError]) -> ArgosyError:
    """The request is refused by name, and the audit log tells."""
    with pytest.raises(kind) as caught:
        service.enrol(body, SOURCE)
    row = store.audit.tail(1)[0]
    assert (row.actor, row.action, row.subject) == (SOURCE, "device.enrol-refused", kind.code)
    return caught.value


def test_a_device_gets_a_certificate_for_its_key_and_its_own_name(
    service: EnrolmentService, store: Store, ca: CertificateAuthority
) -> None:
    board = Board()
    token, text = store.tokens.create("lab", tags=["arm"])
    answer = service.enrol(board.body(text), SOURCE)
    chain = x509.parse_chain(answer.certificate_pem.encode())
    assert x509.subject_cn(chain[0]) == answer.device == board.device
    assert x509.same_key(chain[0], board.tls.public_key())
    assert x509.chains_to(chain, ca.certificate)
    assert (answer.site, answer.ca_pem) == ("lab", ca.pem)
    assert answer.node_id == int(board.device, 16)
    row = store.devices.get("pi")
    assert (row.device, row.site, row.tags, row.machine) == (board.device, "lab", ["arm"], "aarch64")
    assert row.identity_public == x509.public_der(board.identity.public_key())
    audit = store.audit.tail(1)[0]
    assert (audit.actor, audit.action, audit.subject) == (SOURCE, "device.enrol", board.device)
    assert audit.detail == {"name": "pi", "by": token.id}
    assert text.split(".")[1] not in str(store.audit.tail())


def test_the_same_request_again_gets_the_same_certificate_and_no_use_is_burnt(
    service: EnrolmentService, store: Store, clock: SetClock
) -> None:
    board = Board()
    _, text = store.tokens.create(ttl_s=60)
    first = service.enrol(board.body(text), SOURCE)
    clock.go(3600)  # also when the token's time is over by now: it was bought in time
    assert service.enrol(board.body(text), SOURCE) == first
    assert [token.used for token in store.tokens.list()] == [1]
    assert len(store.devices.list()) == 1


def test_a_used_up_an_expired_and_an_unknown_token_are_told_apart(
    service: EnrolmentService, store: Store, clock: SetClock
) -> None:
    _, used = store.tokens.create(uses=2)
    for _ in range(2):
        service.enrol(Board().body(used), SOURCE)
    assert "2 of 2" in _refused(service, store, Board().body(used), TokenExhausted).message
    _, old = store.tokens.create(ttl_s=60)
    clock.go(61)
    _refused(service, store, Board().body(old), TokenExpired)
    _, good = store.tokens.create()
    wrong_secret = good[:9] + ("A" * 32)
    _refused(service, store, Board().body(wrong_secret), TokenUnknown)
    _refused(service, store, Board().body("0" * 8 + good[8:]), TokenUnknown)
    _refused(service, store, Board().body("not a token"), TokenMalformed)
    assert len(store.devices.list()) == 2


def test_a_board_that_is_enrolled_joins_under_another_identity_only_once_the_old_one_is_revoked(
    service: EnrolmentService, store: Store
) -> None:
    pi = {"model": "Raspberry Pi 5 Model B Rev 1.0", "serial": "10000000a1b2c3d4"}
    _, text = store.tokens.create(uses=9)
    first = Board()
    service.enrol(first.body(text, inventory=pi), SOURCE)
    flashed = Board()
    refused = _refused(service, store, flashed.body(text, inventory=pi), BoardEnrolled)
    assert first.device in refused.remedy_text
    assert [token.used for token in store.tokens.list()] == [1]
    service.enrol(first.body(text, inventory=pi), SOURCE)  # the board itself, again
    for other in ({**pi, "serial": "10000000a1b2c3d5"}, {**pi, "model": "Jetson"}, {"serial": 5}, {}, {"serial": "%"}):
        service.enrol(Board().body(text, inventory=other), SOURCE)
    store.devices.decide(first.device, "revoke", "me")
    assert service.enrol(flashed.body(text, inventory=pi), SOURCE).device == flashed.device


def test_what_a_machine_without_a_serial_number_tells_is_shared_by_all_on_it(
    service: EnrolmentService, store: Store
) -> None:
    _, text = store.tokens.create(uses=2)
    for _ in range(2):
        service.enrol(Board().body(text, inventory={"serial": "machine-c25d9a3eb590260c"}), SOURCE)


def test_a_new_token_with_the_same_request_enrols_after_the_first_one_is_gone(
    service: EnrolmentService, store: Store
) -> None:
    board = Board()
    _, first = store.tokens.create()
    _, second = store.tokens.create()
    service.enrol(board.body(first), SOURCE)
    again = service.enrol(board.body(second), SOURCE)
    assert again.device == board.device
    assert [token.used for token in store.tokens.list()] == [1, 1]
    assert service.enrol(board.body(second), SOURCE) == again


def test_a_device_that_was_shut_out_stays_out(service: EnrolmentService, store: Store) -> None:
    board = Board()
    _, text = store.tokens.create(uses=5)
    service.enrol(board.body(text), SOURCE)
    store.devices.decide(board.device, "revoke", "test")
    _refused(service, store, board.body(text), DeviceRefused)
    board.csr = x509.make_csr(x509.generate_key())
    _refused(service, store, board.body(text), DeviceRefused)
    assert store.devices.get(board.device).state is DeviceState.REVOKED


def test_somebody_elses_certificate_request_is_refused(service: EnrolmentService, store: Store) -> None:
    victim, thief = Board(), Board()
    _, text = store.tokens.create(uses=5)
    first = service.enrol(victim.body(text), SOURCE)
    thief.csr = victim.csr
    _refused(service, store, thief.body(text), DeviceRefused)
    assert service.enrol(victim.body(text), SOURCE) == first


@pytest.mark.parametrize(
    "changes",
    [
        {"csr_pem": ""},
        {"csr_pem": "x" * 20_000},
        {"csr_pem": x509.make_csr(x509.generate_key()).decode()},  # signed by nobody we know
        {"identity_public_pem": x509.public_pem(x509.generate_key().public_key()).decode()},
        {"identity_public_pem": "-----BEGIN PUBLIC KEY-----\n\ud800\n-----END PUBLIC KEY-----"},
        {"identity_signature": ""},
        {"identity_signature": "zz"},
        {"identity_signature": "abc"},
        {"identity_signature": "00" * 64},
        {"name": 7},
        {"name": "x" * 1000},
        {"inventory": {"deep": {"er": 1}}},
        {"inventory": {str(n): n for n in range(1000)}},
        {"token": None},
        {"extra": 1},
    ],
)
def test_a_request_with_one_thing_wrong_is_refused(
    service: EnrolmentService, store: Store, changes: dict[str, object]
) -> None:
    _, text = store.tokens.create()
    _refused(service, store, Board().body(text, **changes), RequestInvalid)
    assert store.devices.list() == []
    assert store.tokens.list()[0].used == 0


def test_other_kinds_of_keys_are_refused(service: EnrolmentService, store: Store) -> None:
    _, text = store.tokens.create()
    pem = (
        ed25519.Ed25519PrivateKey.generate()
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    _refused(service, store, Board().body(text, identity_public_pem=pem.decode()), RequestInvalid)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=400) | st.integers(0, 900))
def test_hostile_and_cut_bodies_are_refused(
    store: Store, ca: CertificateAuthority, clock: SetClock, data: bytes | int
) -> None:
    service = EnrolmentService(store, ca, doorkeeper=Doorkeeper(clock), brokers=list)
    body = _WHOLE[:data] if isinstance(data, int) else data
    with pytest.raises((RequestInvalid, TokenMalformed)):
        service.enrol(body, SOURCE)


_WHOLE = Board().body("0" * 8 + "." + "A" * 32)


@pytest.mark.parametrize("size", [0, 1, 1000, MAX_BODY, MAX_BODY + 1, 10 * MAX_BODY])
@pytest.mark.parametrize("filler", [b"\0", b"[", b'{"a":', b"1", b'"', b"\xff"])
def test_bodies_of_every_size_are_refused(service: EnrolmentService, store: Store, size: int, filler: bytes) -> None:
    _refused(service, store, (filler * (size // len(filler) + 1))[:size], RequestInvalid)


def test_failures_slow_an_address_down_and_leave_others_alone(
    service: EnrolmentService, store: Store, clock: SetClock
) -> None:
    _, text = store.tokens.create()
    for _ in range(10):
        _refused(service, store, b"x", RequestInvalid)
    rows = len(store.audit.tail())
    for _ in range(5):
        with pytest.raises(TooManyAttempts):
            service.enrol(Board().body(text), SOURCE)
    assert len(store.audit.tail()) == rows  # a stranger cannot fill the log
    assert isinstance(service.enrol(Board().body(text), "198.51.100.1"), EnrolAnswer)
    clock.go(11)
    _refused(service, store, Board().body(text), TokenExhausted)


def test_a_token_for_one_enrols_one_device_of_many_that_come_at_once(service: EnrolmentService, store: Store) -> None:
    _, text = store.tokens.create()
    bodies = [Board().body(text) for _ in range(8)]
    outcomes: list[str] = []
    gate = threading.Barrier(len(bodies))

    def come(number: int, body: bytes) -> None:
        gate.wait(30)
        try:
            service.enrol(body, f"192.0.2.{number}")
            outcomes.append("enrolled")
        except ArgosyError as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=come, args=(n, body)) for n, body in enumerate(bodies)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(outcomes) == ["enrolled"] + ["token-exhausted"] * 7
    assert len(store.devices.list()) == 1
    assert store.tokens.list()[0].used == 1


def test_nothing_is_burnt_or_recorded_when_issuing_fails(store: Store) -> None:
    _, text = store.tokens.create()
    token_id, secret = text.split(".")
    claim = Claim(token_id, secret, "ab" * 32, "cd" * 8, b"", "pi", {}, SOURCE)

    def fail() -> Any:  # noqa: ANN401  (it never returns)
        raise OSError("no entropy")

    with pytest.raises(ArgosyError):
        store.enrolments.enrol(claim, fail)
    assert store.tokens.list()[0].used == 0
    assert store.devices.list() == []
    assert store.audit.tail() == []


# --- approval ------------------------------------------------------------------------------------------------------


def test_a_token_that_does_not_approve_issues_nothing_until_an_operator_does(
    service: EnrolmentService, store: Store
) -> None:
    board = Board()
    _, text = store.tokens.create("lab", tags=["camera"], approve=False)
    for _ in range(3):
        with pytest.raises(ApprovalPending, match=board.device):
            service.enrol(board.body(text), SOURCE)
    row = store.devices.get("pi")
    assert (row.state, row.certificate_pem, row.site, row.tags) == (DeviceState.PENDING, "", "lab", ["camera"])
    assert [token.used for token in store.tokens.list()] == [1]
    assert [entry.action for entry in store.audit.tail()] == ["device.request"]  # once, and waiting is no failure
    store.devices.decide("pi", "approve", "user:me")
    answer = service.enrol(board.body(text), SOURCE)
    assert service.enrol(board.body(text), SOURCE) == answer
    row = store.devices.get("pi")
    assert (row.state, row.certificate_pem) == (DeviceState.ENROLLED, answer.certificate_pem)
    assert row.request_ends_at is None
    assert [token.used for token in store.tokens.list()] == [1]


def test_a_rejected_device_stays_out_with_any_token(service: EnrolmentService, store: Store) -> None:
    board = Board()
    _, text = store.tokens.create(approve=False)
    with pytest.raises(ApprovalPending):
        service.enrol(board.body(text), SOURCE)
    store.devices.decide("pi", "reject", "user:me")
    assert "rejected" in _refused(service, store, board.body(text), DeviceRefused).message
    _refused(service, store, board.body(store.tokens.create()[1]), DeviceRefused)
    with pytest.raises(DeviceStateForbids, match="rejected"):
        store.devices.decide("pi", "revoke", "user:me")


def test_a_request_that_nobody_decides_on_expires_and_another_token_asks_anew(
    store: Store, ca: CertificateAuthority, clock: SetClock
) -> None:
    doorkeeper = Doorkeeper(clock)
    service = EnrolmentService(store, ca, doorkeeper=doorkeeper, brokers=lambda: [("10.0.0.5", 8883)], approval_s=600)
    board = Board()
    _, text = store.tokens.create(approve=False)
    with pytest.raises(ApprovalPending):
        service.enrol(board.body(text), SOURCE)
    clock.go(601)
    _refused(service, store, board.body(text), RequestExpired)
    assert store.devices.get("pi").state is DeviceState.EXPIRED
    with pytest.raises(DeviceStateForbids):
        store.devices.decide("pi", "approve", "user:me")
    _, second = store.tokens.create(approve=False)
    with pytest.raises(ApprovalPending):
        service.enrol(board.body(second), SOURCE)
    clock.go(601)
    assert store.devices.expire() == (board.device,)
    assert store.devices.expire() == ()
    assert service.enrol(board.body(store.tokens.create()[1]), SOURCE).device == board.device


def test_every_certificate_of_a_revoked_device_is_revoked_and_stays_so_when_it_is_let_in_again(
    service: EnrolmentService, store: Store
) -> None:
    board = Board()
    texts = [store.tokens.create()[1] for _ in range(4)]
    # the same request under two tokens: two certificates for one key, of which the tables of enrolments keep one
    first = [service.enrol(board.body(text), SOURCE) for text in texts[:2]]
    serials = {x509.parse_certificate(answer.certificate_pem.encode()).serial_number for answer in first}
    assert len(serials) == 2
    store.devices.decide("pi", "revoke", "user:me")
    assert (store.devices.shut_out().devices, set(store.devices.shut_out().serials)) == ([board.device], serials)
    _refused(service, store, board.body(texts[1]), DeviceRefused)
    store.devices.decide("pi", "approve", "user:me")
    assert (store.devices.shut_out().devices, set(store.devices.shut_out().serials)) == ([], serials)
    again = service.enrol(board.body(texts[2]), SOURCE)
    assert x509.parse_certificate(again.certificate_pem.encode()).serial_number not in serials
    with pytest.raises(TokenExhausted):  # and never the revoked one
        service.enrol(board.body(texts[1]), SOURCE)
