"""Renewals of certificates, each one transaction: the next certificate is recorded with its request, or nothing is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from argosy_common import x509
from argosy_common.clock import Clock
from argosy_common.errors import DeviceRefused, RenewalRefused, RequestInvalid
from argosy_common.renewal import Standing
from argosy_server.store.audit import put_audit
from argosy_server.store.database import Database
from argosy_server.store.enrolments import KEPT_OUT, Issued
from argosy_server.store.rows import DeviceState
from argosy_server.store.tables import Certificate, Device

GRACE_S = 30 * 86_400.0
"""How long after its certificate's end a device may still renew it unless that is set."""
MAX_IN_FORCE = 16
"""Certificates of one device that have not ended; a device that wants more asks wrongly, or not by itself."""


@dataclass(frozen=True)
class Renewal:
    """A request that was checked: its sender holds the identity key and the new TLS key."""

    device: str
    serial: str
    """Of the certificate that is to be renewed."""
    shown_until: datetime | None
    """When it ends, where the sender proved to hold its key too, as is needed until then; None where it did not."""
    csr_digest: str
    public: x509.PublicKey
    """The new TLS key."""
    source: str
    """The address it came from, for the audit log."""


class Renewals:
    """What happens to the certificates of enrolled devices."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def standing(self, serial: str) -> Standing:
        """Return how long a certificate is still good for.

        Raises:
            RenewalRefused: it is not known here.
        """
        with self._database.read() as session:
            found = session.get(Certificate, serial)
            if found is None:
                raise RenewalRefused(why=_UNKNOWN)
            now = self._clock.wall()
            left, life = found.not_after - now, found.not_after - found.issued_at
            if _of_the_future(found, now):
                left = timedelta(0)  # the broker refuses it
            return Standing(left_s=left.total_seconds(), life_s=max(1.0, life.total_seconds()))

    def renew(self, renewal: Renewal, issue: Callable[[], Issued], *, grace_s: float = GRACE_S) -> str:
        """Return the device's next certificate (PEM). The same request again gets the same certificate.

        Raises:
            DeviceRefused: an operator shut the device out.
            RenewalRefused: the certificate is not known, was not shown, ended more than `grace_s` seconds ago, or the
                device has too many.
            RequestInvalid: the TLS key is that of the certificate which the device has.
        """
        now = self._clock.wall()
        with self._database.write() as session:
            device = session.get(Device, renewal.device, with_for_update=True)
            old = session.get(Certificate, renewal.serial)
            if device is not None and old is None and renewal.shown_until is not None:
                old = self._found_again(session, device, renewal, now)
            if device is None or old is None or old.device != renewal.device:
                raise RenewalRefused(why=_UNKNOWN)
            if device.state is not DeviceState.ENROLLED or old.revoked_at is not None:
                why = KEPT_OUT.get(device.state, "its certificate was revoked")
                raise DeviceRefused(device=renewal.device, why=why)
            newest = x509.parse_certificate(device.certificate_pem.encode())
            if self._is_answered(session, renewal, x509.serial_text(newest), now):
                return device.certificate_pem
            if renewal.shown_until is None and old.not_after > now and not _of_the_future(old, now):
                raise RenewalRefused(why="the certificate is good still, and was not shown")
            if old.not_after + timedelta(seconds=grace_s) < now:
                days = (now - old.not_after).days
                raise RenewalRefused(why=f"it ended {days} days ago, and the grace is {grace_s / 86_400:g} days")
            if x509.same_key(newest, renewal.public):
                raise RequestInvalid(why="a renewal needs a new TLS key")
            mine = Certificate.device == renewal.device
            in_force = select(func.count()).select_from(Certificate).where(mine, Certificate.not_after > now)
            if (session.scalar(in_force) or 0) >= MAX_IN_FORCE:
                raise RenewalRefused(why=f"{MAX_IN_FORCE} certificates of it have not ended yet")
            self._record(session, device, renewal, issue(), now)
            # what cannot be renewed any more need not be remembered
            session.execute(delete(Certificate).where(mine, Certificate.not_after < now - timedelta(seconds=grace_s)))
            return device.certificate_pem

    @staticmethod
    def _found_again(session: Session, device: Device, renewal: Renewal, now: datetime) -> Certificate:
        """Put a certificate on record that is not, and that TLS has verified: it is ours.

        It was issued after the backup that this database comes from; what is removed from a database has ended.
        """
        assert renewal.shown_until is not None  # noqa: S101  (the caller's condition)
        found = Certificate(
            serial=renewal.serial, device=device.device, not_after=renewal.shown_until, issued_at=now, revoked_at=None
        )
        session.add(found)
        detail: dict[str, object] = {"serial": renewal.serial}
        put_audit(session, now, renewal.source, "device.certificate-found", subject=device.device, detail=detail)
        return found

    @staticmethod
    def _is_answered(session: Session, renewal: Renewal, newest: str, now: datetime) -> bool:
        """Tell whether the device's newest certificate is the answer to this very request (which was lost, then)."""
        found = session.get(Certificate, newest)
        if found is None or _of_the_future(found, now):
            return False
        return found.csr_digest == renewal.csr_digest and found.not_after > now

    @staticmethod
    def _record(session: Session, device: Device, renewal: Renewal, issued: Issued, now: datetime) -> None:
        device.certificate_pem, device.not_after = issued.certificate_pem, issued.not_after
        session.add(
            Certificate(
                serial=issued.serial,
                device=renewal.device,
                not_after=issued.not_after,
                issued_at=now,
                csr_digest=renewal.csr_digest,
            )
        )
        detail: dict[str, object] = {
            "until": issued.not_after.isoformat(timespec="seconds"),
            "shown": renewal.shown_until is not None,
        }
        put_audit(session, now, renewal.source, "device.renew", subject=renewal.device, detail=detail)
        session.flush()


def _of_the_future(certificate: Certificate, now: datetime) -> bool:
    """Tell whether it was issued while our clock was ahead, so that it is not valid yet."""
    return certificate.issued_at - x509.BACKDATED > now


_UNKNOWN = "the coordinator does not list it; another one issued it, or it ended long ago"
