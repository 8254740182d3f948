"""Who gets the next certificate, by the service itself: one thing wrong at a time."""

from __future__ import annotations

import dataclasses
import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select

from argosy_common import x509
from argosy_common.errors import ArgosyError, DeviceRefused, RenewalRefused, RequestInvalid, TooManyAttempts
from argosy_common.renewal import RenewAnswer
from argosy_server.ca import CertificateAuthority
from argosy_server.enrolment import EnrolmentService
from argosy_server.enrolment.rate import Doorkeeper
from argosy_server.enrolment.renewal import RenewalService, Shown
from argosy_server.store import Store
from argosy_server.store.renewals import MAX_IN_FORCE
from argosy_server.store.tables import Certificate
from tests.server.enrolment.conftest import SetClock
from tests.server.enrolment.test_service import SOURCE, Board

DAY = 86_400.0


@dataclasses.dataclass
class Desk:
    """The service, a board that is enrolled there, and what the board asks."""

    store: Store
    ca: CertificateAuthority
    clock: SetClock
    service: RenewalService
    board: Board
    serial: str

    def body(self, key: x509.PrivateKey | None = None, /, **changes: Any) -> bytes:  # noqa: ANN401  (of JSON)
        csr = x509.make_csr(key or x509.generate_key())
        der, serial = x509.csr_der(x509.verify_csr(csr)), changes.get("serial", self.serial)
        request = {
            "device": self.board.device,
            "serial": serial,
            "csr_pem": csr.decode(),
            "identity_signature": x509.sign_renewal(self.board.identity, der, int(serial, 16)).hex(),
        }
        return json.dumps({**request, **changes}).encode()

    def renew(self, body: bytes | None = None, *, shown: bool = True) -> RenewAnswer:
        seen = Shown(self.board.device, self.serial, self.clock.now + timedelta(days=2)) if shown else None
        return self.service.renew(self.body() if body is None else body, SOURCE, seen)

    def take(self, answer: RenewAnswer) -> str:
        """Put the answer in force at the board."""
        self.serial = _serial(answer)
        return self.serial

    def refused(self, kind: type[ArgosyError], body: bytes | None = None, *, shown: bool = True) -> ArgosyError:
        with pytest.raises(kind) as caught:
            self.renew(body, shown=shown)
        row = self.store.audit.tail(1)[0]
        assert (row.actor, row.action, row.subject) == (SOURCE, "device.renew-refused", kind.code)
        return caught.value


def _serial(answer: RenewAnswer) -> str:
    return x509.serial_text(x509.parse_certificate(answer.certificate_pem.encode()))


@pytest.fixture
def desk(store: Store, ca: CertificateAuthority, clock: SetClock) -> Desk:
    board, doorkeeper = Board(), Doorkeeper(clock)
    _, token = store.tokens.create()
    enrolled = EnrolmentService(store, ca, doorkeeper=doorkeeper, brokers=lambda: [("10.0.0.5", 8883)]).enrol(
        board.body(token), SOURCE
    )
    service = RenewalService(store, ca, doorkeeper=doorkeeper, brokers=lambda: [("10.0.0.6", 8883)])
    serial = x509.serial_text(x509.parse_certificate(enrolled.certificate_pem.encode()))
    return Desk(store, ca, clock, service, board, serial)


def test_a_device_gets_its_next_certificate_for_its_new_key(desk: Desk) -> None:
    desk.clock.go(5 * DAY)
    key = x509.generate_key()
    answer = desk.renew(desk.body(key))
    certificate = x509.parse_certificate(answer.certificate_pem.encode())
    assert x509.subject_cn(certificate) == desk.board.device
    assert x509.same_key(certificate, key.public_key())
    assert certificate.not_valid_after_utc - desk.clock.now == timedelta(days=7)
    assert [(broker.host, broker.port) for broker in answer.brokers] == [("10.0.0.6", 8883)]
    row = desk.store.devices.get(desk.board.device)
    assert (row.certificate_pem, row.not_after) == (answer.certificate_pem, certificate.not_valid_after_utc)
    audit = desk.store.audit.tail(1)[0]
    assert (audit.actor, audit.action, audit.subject) == (SOURCE, "device.renew", desk.board.device)
    assert audit.detail["shown"] is True


def test_the_same_request_again_gets_the_same_certificate(desk: Desk) -> None:
    body = desk.body()
    first = desk.renew(body)
    desk.clock.go(3600)
    assert desk.renew(body) == first
    assert [row.action for row in desk.store.audit.tail()].count("device.renew") == 1


def test_how_a_certificate_stands_is_told_by_the_coordinators_clock(desk: Desk) -> None:
    assert desk.service.standing(desk.serial, SOURCE).left_s == 7 * DAY
    desk.clock.go(6 * DAY)
    standing = desk.service.standing(desk.serial, SOURCE)
    assert (standing.left_s, standing.life_s, standing.ended) == (DAY, 7 * DAY, False)
    desk.clock.go(2 * DAY)
    assert desk.service.standing(desk.serial, SOURCE).ended
    with pytest.raises(RenewalRefused, match="does not list it"):
        desk.service.standing("abc", SOURCE)
    with pytest.raises(RequestInvalid):
        desk.service.standing("../x", SOURCE)


@pytest.mark.parametrize("by", ["nobody", "another key", "the signature of an enrolment", "that for another serial"])
def test_without_the_identity_keys_signature_over_this_very_renewal_nothing_is_issued(desk: Desk, by: str) -> None:
    body = json.loads(desk.body())
    der = x509.csr_der(x509.verify_csr(body["csr_pem"].encode()))
    identity, serial = desk.board.identity, int(desk.serial, 16)
    body["identity_signature"] = {
        "nobody": b"",
        "another key": x509.sign_renewal(x509.generate_key(), der, serial),
        "the signature of an enrolment": x509.sign_enrolment(identity, der),
        "that for another serial": x509.sign_renewal(identity, der, serial + 1),
    }[by].hex()
    desk.refused(RequestInvalid, json.dumps(body).encode())
    assert len(_certificates(desk)) == 1


def test_a_certificate_that_is_good_must_be_shown(desk: Desk) -> None:
    assert "was not shown" in desk.refused(RenewalRefused, shown=False).message


def test_with_anothers_certificate_nothing_is_renewed(desk: Desk) -> None:
    """A thief with the certificate of one device and the identity key of another gets nothing."""
    for device, serial in (("0123456789abcdef", desk.serial), (desk.board.device, "12ab")):
        with pytest.raises(RenewalRefused, match="another certificate was shown"):
            desk.service.renew(desk.body(), SOURCE, Shown(device, serial, desk.clock.now + timedelta(days=1)))


def test_a_device_that_was_away_beyond_its_certificates_end_is_let_in_by_its_identity_key_within_the_grace(
    desk: Desk,
) -> None:
    desk.clock.go(7 * DAY + 29 * DAY)
    answer = desk.renew(shown=False)
    assert desk.service.standing(_serial(answer), SOURCE).left_s == 7 * DAY
    assert desk.store.audit.tail(1)[0].detail["shown"] is False


def test_a_lost_answer_and_a_lost_request_after_the_end_do_not_shut_a_device_out(desk: Desk) -> None:
    desk.clock.go(8 * DAY)
    desk.renew(shown=False)  # whose answer is lost, and with it the key for it: the disk's last minutes
    desk.take(desk.renew(shown=False))
    assert desk.service.standing(desk.serial, SOURCE).left_s == 7 * DAY


def test_after_the_grace_only_a_token_helps(desk: Desk) -> None:
    desk.clock.go(7 * DAY + 31 * DAY)
    refused = desk.refused(RenewalRefused, shown=False)
    assert "31 days ago" in refused.message
    assert "argosy token create" in refused.remedy_text


def test_a_certificate_that_was_issued_while_the_clock_was_ahead_is_replaced_once_it_is_right(desk: Desk) -> None:
    good, key = desk.serial, x509.generate_key()
    desk.clock.go(30 * DAY)  # ahead, and within the grace
    of_the_future = desk.take(desk.renew(desk.body(key), shown=False))
    desk.clock.go(-30 * DAY)
    desk.service._doorkeeper = Doorkeeper(desk.clock)  # a real monotonic clock does not jump
    standing = desk.service.standing(of_the_future, SOURCE)
    assert standing.ended, "no broker takes it yet"
    desk.take(desk.renew(shown=False))
    assert desk.service.standing(desk.serial, SOURCE).left_s == 7 * DAY
    assert good not in (of_the_future, desk.serial)


def forget(desk: Desk) -> None:
    """Make the database one from before the device's certificate was issued."""
    with desk.store._database.write() as session:
        session.execute(delete(Certificate).where(Certificate.serial == desk.serial))


def test_a_certificate_from_after_the_backup_is_renewed_when_it_is_shown(desk: Desk) -> None:
    desk.clock.go(5 * DAY)
    forget(desk)
    lost = desk.serial
    assert "does not list it" in desk.refused(RenewalRefused, shown=False).message
    desk.take(desk.renew())
    assert desk.service.standing(desk.serial, SOURCE).left_s == 7 * DAY
    assert set(_certificates(desk)) == {lost, desk.serial}, "and is revoked with the device, should that come to pass"
    found = [row for row in desk.store.audit.tail() if row.action == "device.certificate-found"]
    assert [(row.subject, row.detail) for row in found] == [(desk.board.device, {"serial": lost})]


def test_a_device_that_is_shut_out_is_not_let_in_by_a_certificate_that_is_not_on_record(desk: Desk) -> None:
    forget(desk)
    desk.store.devices.decide(desk.board.device, "revoke", "me")
    desk.refused(DeviceRefused)
    assert desk.serial not in _certificates(desk)


def test_a_renewal_needs_a_new_key(desk: Desk) -> None:
    desk.refused(RequestInvalid, desk.body(desk.board.tls))


def test_a_device_that_was_shut_out_renews_nothing_neither_before_nor_after_its_certificates_end(desk: Desk) -> None:
    desk.store.devices.decide(desk.board.device, "revoke", "me")
    assert "revoked" in desk.refused(DeviceRefused).message
    desk.clock.go(8 * DAY)
    desk.refused(DeviceRefused, shown=False)


def test_a_device_that_was_let_in_again_does_not_renew_what_was_revoked(desk: Desk) -> None:
    desk.store.devices.decide(desk.board.device, "revoke", "me")
    desk.store.devices.decide(desk.board.device, "approve", "me")
    desk.refused(DeviceRefused)


def test_every_certificate_of_a_device_is_revoked_with_it(desk: Desk) -> None:
    serials = {desk.serial, desk.take(desk.renew()), desk.take(desk.renew())}
    desk.store.devices.decide(desk.board.device, "revoke", "me")
    assert set(desk.store.devices.shut_out().serials) == {int(serial, 16) for serial in serials}


def test_a_device_cannot_fill_the_database_with_certificates(desk: Desk) -> None:
    for _ in range(MAX_IN_FORCE - 1):
        desk.renew()
    desk.refused(RenewalRefused)
    desk.clock.go(7 * DAY - 1)  # the old ones end
    desk.clock.go(2)
    desk.renew(shown=False)


def test_what_nobody_can_renew_any_more_is_forgotten(desk: Desk) -> None:
    first = desk.serial
    for _ in range(9):
        desk.clock.go(5 * DAY)
        desk.take(desk.renew())
    assert first not in _certificates(desk)
    assert desk.serial in _certificates(desk)


@pytest.mark.parametrize(
    "changes",
    [
        {"device": "0123456789abcdef"},
        {"serial": "12ab"},
    ],
)
def test_what_is_not_on_record_is_not_renewed(desk: Desk, changes: dict[str, str]) -> None:
    desk.refused(RenewalRefused, desk.body(**changes), shown=False)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=400) | st.integers(0, 900))
def test_hostile_and_cut_bodies_are_refused(desk: Desk, data: bytes | int) -> None:
    service = RenewalService(desk.store, desk.ca, doorkeeper=Doorkeeper(desk.clock), brokers=list)
    body = desk.body()
    with pytest.raises((RequestInvalid, RenewalRefused)):
        service.renew(body[: min(data, len(body) - 1)] if isinstance(data, int) else data, SOURCE, None)


def test_whoever_is_refused_too_often_must_wait(desk: Desk) -> None:
    for _ in range(10):
        desk.refused(RequestInvalid, b"{}")
    with pytest.raises(TooManyAttempts):
        desk.renew()
    with pytest.raises(TooManyAttempts):
        desk.service.standing(desk.serial, SOURCE)
    desk.clock.go(60)
    desk.renew()


def _certificates(desk: Desk) -> set[str]:
    """Return the serial numbers on record."""
    with desk.store.devices._database.read() as session:
        return set(session.scalars(select(Certificate.serial)))
