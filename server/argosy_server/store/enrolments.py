"""Enrolment as one transaction: the token is burnt, the certificate recorded and the device added, or nothing is."""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Self

from cryptography import x509 as cx509
from sqlalchemy import Text, select, type_coerce, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from argosy_common import x509
from argosy_common.clock import Clock
from argosy_common.errors import (
    ApprovalPending,
    ArgosyError,
    BoardEnrolled,
    DeviceRefused,
    RequestExpired,
    TokenExhausted,
    TokenExpired,
    TokenUnknown,
)
from argosy_server.store.audit import put_audit
from argosy_server.store.database import Database
from argosy_server.store.devices import expire_request, follow, put_device
from argosy_server.store.rows import DeviceRow, DeviceState, EnrolmentRow, Json, TokenRow
from argosy_server.store.tables import Certificate, Device, Enrolment, Token
from argosy_server.store.tokens import secret_hash

APPROVAL_S = 86_400.0
"""How long a request waits for an operator unless it is set."""

KEPT_OUT = {DeviceState.REVOKED: "an operator revoked it", DeviceState.REJECTED: "an operator rejected it"}
_PRINTED = re.compile(r"(?!machine-)[\w.-]{4,64}\Z", re.ASCII)
"""Serial numbers that are a board's own."""
_UNDECIDED = (None, DeviceState.PENDING, DeviceState.EXPIRED)


@dataclass(frozen=True)
class Claim:
    """A request that was checked: its sender holds the identity key and the TLS key."""

    token_id: str
    secret: str
    csr_digest: str
    device: str
    identity_public: bytes
    name: str
    inventory: Json
    source: str
    """The address it came from, for the audit log."""


@dataclass(frozen=True)
class Issued:
    """A fresh certificate."""

    serial: str
    """Hexadecimal."""
    certificate_pem: str
    not_after: datetime

    @classmethod
    def of(cls, chain: list[cx509.Certificate]) -> Self:
        """Return a certificate, with its issuers, as it is recorded."""
        pem = x509.chain_pem(*chain).decode()
        return cls(x509.serial_text(chain[0]), pem, chain[0].not_valid_after_utc)


class Enrolments:
    """The table of certificates that tokens bought."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def enrol(self, claim: Claim, issue: Callable[[], Issued], *, approval_s: float = APPROVAL_S) -> EnrolmentRow:
        """Give the claim its certificate. The same request with the same token again gets the same certificate.

        Raises:
            ApprovalPending: the token does not approve by itself, and no operator has decided yet.
            RequestExpired: no operator decided within `approval_s` seconds.
            TokenUnknown: no such token, or its secret is wrong.
            TokenExpired: its time is over.
            TokenExhausted: all its uses are gone.
            DeviceRefused: an operator shut this identity out, or the request belongs to another identity.
            BoardEnrolled: a device with another identity has this board's printed serial number.
        """
        try:
            outcome = self._once(claim, issue, approval_s)
        except IntegrityError:
            # PostgreSQL only: two devices of one name came with two tokens at the same moment. One is recorded by now.
            outcome = self._once(claim, issue, approval_s)
        if isinstance(outcome, ArgosyError):
            raise outcome  # here, so that what led to it is recorded
        return outcome

    def _once(self, claim: Claim, issue: Callable[[], Issued], approval_s: float) -> EnrolmentRow | ArgosyError:
        now = self._clock.wall()
        with self._database.write() as session:
            # 1. The secret comes first: without it nothing is told, not even that a token or a request exists.
            #    Its row stays locked (PostgreSQL; SQLite has one writer), so that requests with one token come in turn.
            token = session.get(Token, claim.token_id, with_for_update=True)
            if token is None or not hmac.compare_digest(token.secret_hash, secret_hash(claim.secret)):
                raise TokenUnknown
            # 2. An identity that was shut out stays out, whatever token it brings.
            known = session.get(Device, claim.device)
            if known is not None and known.state in KEPT_OUT:
                raise DeviceRefused(device=claim.device, why=KEPT_OUT[known.state])
            # 3. A repeated request (its answer was lost) gets its answer again, as long as that is of use. With
            #    another token, or after its certificate's time, it is a new request of the same device.
            answered = _answered(session, claim, token.id, known, now)
            if answered is not None:
                return answered
            # 4. A board is one device. One that was flashed anew has a new identity: an operator lets the old one go.
            if known is None and (other := _same_board(session, claim)) is not None:
                return BoardEnrolled(serial=claim.inventory["serial"], device=other)
            # 5. A repeated request on which an operator decides: it has burnt its use.
            row = token.to_row(TokenRow)
            asked = known is not None and (known.request_digest, known.request_token) == (claim.csr_digest, row.id)
            if known is not None and asked:
                expire_request(session, known, now)
                if known.state is DeviceState.PENDING:
                    return ApprovalPending(device=claim.device)
                if known.state is DeviceState.EXPIRED:
                    return RequestExpired(device=claim.device)
            # 6. Burn one use; the condition and the count are one statement.
            if not asked or known is None or known.state is not DeviceState.APPROVED:
                _burn(session, row, now)
            # 7. Without approval nothing is issued. An identity that an operator let in once needs no second approval.
            if not row.approve and (known.state if known is not None else None) in _UNDECIDED:
                if known is not None:
                    follow(known, "request")
                _ask(session, claim, row, now, approval_s)
                return ApprovalPending(device=claim.device)
            # 8. Record everything; the certificate counts only if this commits.
            if known is not None:
                follow(known, "issue")
            issued = issue()
            found = put_device(session, _device(claim, row, issued, now))
            found.request_digest = found.request_token = found.request_ends_at = None
            session.add(
                Certificate(serial=issued.serial, device=claim.device, not_after=issued.not_after, issued_at=now)
            )
            enrolment = session.merge(
                Enrolment(
                    csr_digest=claim.csr_digest,
                    device=claim.device,
                    token=row.id,
                    site=row.site,
                    certificate_pem=issued.certificate_pem,
                    not_after=issued.not_after,
                    at=now,
                )
            )
            details: dict[str, object] = {"name": claim.name, "by": row.id}
            put_audit(session, now, claim.source, "device.enrol", subject=claim.device, detail=details)
            session.flush()
            return enrolment.to_row(EnrolmentRow)


def _ask(session: Session, claim: Claim, token: TokenRow, now: datetime, approval_s: float) -> None:
    """Record a request on which an operator decides."""
    nothing = Issued(serial="", certificate_pem="", not_after=now)
    found = put_device(session, replace(_device(claim, token, nothing, now), state=DeviceState.PENDING))
    found.request_digest, found.request_token = claim.csr_digest, token.id
    found.request_ends_at = now + timedelta(seconds=approval_s)
    details: dict[str, object] = {"name": claim.name, "by": token.id}
    put_audit(session, now, claim.source, "device.request", subject=claim.device, detail=details)
    session.flush()


def _answered(
    session: Session, claim: Claim, token: str, known: Device | None, now: datetime
) -> EnrolmentRow | ArgosyError | None:
    """Return what this very request was answered before; None where it was not, or that is of no use any more."""
    before = session.get(Enrolment, claim.csr_digest)
    if before is None:
        return None
    if before.device != claim.device:
        return DeviceRefused(device=claim.device, why="its certificate request belongs to another device")
    in_force = known is not None and known.state is DeviceState.ENROLLED  # else it was revoked meanwhile
    return before.to_row(EnrolmentRow) if before.token == token and before.not_after > now and in_force else None


def _same_board(session: Session, claim: Claim) -> str | None:
    """Return the enrolled device that has this board's model and printed serial number, if there is one.

    What a machine without such a number tells instead ("machine-…") is shared by all that run on it, and says nothing.
    """
    serial, model = claim.inventory.get("serial"), claim.inventory.get("model")
    if not isinstance(serial, str) or not _PRINTED.match(serial):
        return None
    alike = type_coerce(Device.inventory, Text).contains(f'"serial":"{serial}"', autoescape=True)
    enrolled = Device.state_text == DeviceState.ENROLLED.value
    found = session.scalars(select(Device).where(enrolled, Device.device != claim.device, alike))
    return next((each.device for each in found if each.inventory.get("model") == model), None)


def _burn(session: Session, token: TokenRow, now: datetime) -> None:
    if token.expires_at <= now:
        raise TokenExpired(expired_at=token.expires_at.isoformat(timespec="seconds"))
    free = (Token.id == token.id, Token.used < Token.uses)
    statement = update(Token).where(*free).values(used=Token.used + 1).returning(Token.id)
    if session.scalar(statement, execution_options={"synchronize_session": False}) is None:
        raise TokenExhausted(uses=token.uses)


def _device(claim: Claim, token: TokenRow, issued: Issued, now: datetime) -> DeviceRow:
    return DeviceRow(
        device=claim.device,
        name=claim.name,
        site=token.site,
        tags=token.tags,
        state=DeviceState.ENROLLED,
        identity_public=claim.identity_public,
        certificate_pem=issued.certificate_pem,
        not_after=issued.not_after,
        inventory=claim.inventory,
        enrolled_at=now,
        last_seen_at=None,
        version=str(claim.inventory.get("version", "")),
        boot="",
        machine=str(claim.inventory.get("machine", "")),
    )
