"""Who gets the next certificate (docs/protocol.md, "Renewal"). No HTTP here: bytes, an address and what TLS proved."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import TypeAdapter, ValidationError

from argosy_common import x509
from argosy_common.enrolment import BrokerAddress
from argosy_common.errors import (
    ArgosyError,
    DeviceNotFound,
    DeviceRefused,
    RenewalRefused,
    RequestInvalid,
)
from argosy_common.logs import get_logger
from argosy_common.renewal import RenewAnswer, RenewRequest, Serial, Standing
from argosy_server.ca import CertificateAuthority
from argosy_server.enrolment.rate import Doorkeeper
from argosy_server.enrolment.service import Brokers, parse_body
from argosy_server.store import Store
from argosy_server.store.enrolments import Issued
from argosy_server.store.renewals import GRACE_S, Renewal

log = get_logger(__name__)

_REFUSALS = (RequestInvalid, RenewalRefused, DeviceRefused)
_SERIAL: TypeAdapter[str] = TypeAdapter(Serial)


@dataclass(frozen=True)
class Shown:
    """A client's certificate that TLS has verified."""

    device: str
    serial: str
    """Hexadecimal."""
    ends: datetime


class RenewalService:
    """Checks requests and answers them. Safe to use from any thread."""

    def __init__(
        self,
        store: Store,
        ca: CertificateAuthority,
        *,
        doorkeeper: Doorkeeper,
        brokers: Brokers,
        grace_s: float = GRACE_S,
        life: timedelta = x509.DEVICE_LIFE,
    ) -> None:
        """Issue certificates of `life`, until `grace_s` seconds after the end of the last one."""
        self._store = store
        self._ca = ca
        self._doorkeeper = doorkeeper
        self._brokers = brokers
        self._grace_s = grace_s
        self._life = life

    def standing(self, serial: str, source: str) -> Standing:
        """Return how long a certificate is still good for. Whoever knows its number may ask: it is long and random.

        Raises:
            TooManyAttempts: the address must wait.
            RequestInvalid, RenewalRefused: it is no such number, or none of ours.
        """
        self._doorkeeper.admit(source)
        try:
            _SERIAL.validate_python(serial)
            return self._store.renewals.standing(serial)
        except ValidationError:
            self._doorkeeper.refused(source)
            raise RequestInvalid(why="a certificate is named by its serial number, hexadecimal") from None
        except RenewalRefused:
            self._doorkeeper.refused(source)
            raise

    def renew(self, body: bytes, source: str, shown: Shown | None) -> RenewAnswer:
        """Answer the request in `body` from the address `source`; a refusal leaves a row in the audit log.

        Raises:
            TooManyAttempts: the address must wait; the request was not looked at.
            RequestInvalid: the request does not hold together.
            RenewalRefused, DeviceRefused: this device gets no further certificate for this one.
            StorageFailed, DiskFull: the coordinator has troubles of its own.
        """
        self._doorkeeper.admit(source)
        try:
            return self._checked(body, source, shown)
        except _REFUSALS as error:
            self._refused(error, source)
            raise

    def _checked(self, body: bytes, source: str, shown: Shown | None) -> RenewAnswer:
        # 1. Form; the sender holds the new TLS key, which signed the certificate request.
        request = parse_body(body, RenewRequest)
        csr = x509.verify_csr(request.csr_pem.encode("utf-8", "replace"))
        csr_der = x509.csr_der(csr)
        # 2. A certificate that was shown is the one to be renewed: nobody renews another's.
        if shown is not None and (shown.device, shown.serial) != (request.device, request.serial):
            raise RenewalRefused(why="another certificate was shown")
        # 3. The sender holds the identity key that is on record, and signed this very renewal with it.
        try:
            known = self._store.devices.get(request.device)
        except DeviceNotFound:
            raise RenewalRefused(why="the coordinator does not know the device") from None
        identity = x509.parse_public_der(known.identity_public)
        x509.verify_renewal(identity, csr_der, int(request.serial, 16), bytes.fromhex(request.identity_signature))
        # 4. The rest is the database's, in one transaction.
        renewal = Renewal(
            device=known.device,
            serial=request.serial,
            shown_until=None if shown is None else shown.ends,
            csr_digest=hashlib.sha256(csr_der).hexdigest(),
            public=x509.csr_key(csr),
            source=source,
        )
        pem = self._store.renewals.renew(renewal, lambda: self._issue(renewal), grace_s=self._grace_s)
        log.info("renewal.device", device=known.device, name=known.name, source=source)
        brokers = [BrokerAddress(host=host, port=port) for host, port in self._brokers()]
        return RenewAnswer(certificate_pem=pem, brokers=brokers)

    def _issue(self, renewal: Renewal) -> Issued:
        return Issued.of(self._ca.issue_device(renewal.device, renewal.public, self._life))

    def _refused(self, error: ArgosyError, source: str) -> None:
        log.warning("renewal.refused", source=source, code=error.code, why=error.message)
        self._store.audit.write(source, "device.renew-refused", error.code, why=error.message)
        self._doorkeeper.refused(source)
