"""Enrolment as one transaction: the token is burnt, the certificate recorded and the device added, or nothing is."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from argosy_common.clock import Clock
from argosy_common.errors import DeviceRefused, TokenExhausted, TokenExpired, TokenUnknown
from argosy_server.store.audit import put_audit
from argosy_server.store.database import Database
from argosy_server.store.devices import put_device
from argosy_server.store.rows import DeviceRow, DeviceState, EnrolmentRow, Json, TokenRow
from argosy_server.store.tables import Device, Enrolment, Token
from argosy_server.store.tokens import secret_hash


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

    certificate_pem: str
    not_after: datetime


class Enrolments:
    """The table of certificates that tokens bought."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def enrol(self, claim: Claim, issue: Callable[[], Issued]) -> EnrolmentRow:
        """Give the claim its certificate. The same request with the same token again gets the same certificate.

        Raises:
            TokenUnknown: no such token, or its secret is wrong.
            TokenExpired: its time is over.
            TokenExhausted: all its uses are gone.
            DeviceRefused: an operator shut this identity out, or the request belongs to another identity.
        """
        try:
            return self._once(claim, issue)
        except IntegrityError:
            # PostgreSQL only: two devices of one name came with two tokens at the same moment. One is recorded by now.
            return self._once(claim, issue)

    def _once(self, claim: Claim, issue: Callable[[], Issued]) -> EnrolmentRow:
        now = self._clock.wall()
        with self._database.write() as session:
            # 1. The secret comes first: without it nothing is told, not even that a token or a request exists.
            #    Its row stays locked (PostgreSQL; SQLite has one writer), so that requests with one token come in turn.
            token = session.get(Token, claim.token_id, with_for_update=True)
            if token is None or not hmac.compare_digest(token.secret_hash, secret_hash(claim.secret)):
                raise TokenUnknown
            # 2. An identity that was shut out stays out, whatever token it brings.
            known = session.get(Device, claim.device)
            if known is not None and known.state is DeviceState.REFUSED:
                raise DeviceRefused(device=claim.device, why="an operator shut it out")
            # 3. A repeated request (its answer was lost) gets its answer again, as long as that is of use. With
            #    another token, or after its certificate's time, it is a new request of the same device.
            before = session.get(Enrolment, claim.csr_digest)
            if before is not None:
                if before.device != claim.device:
                    raise DeviceRefused(device=claim.device, why="its certificate request belongs to another device")
                if before.token == token.id and before.not_after > now:
                    return before.to_row(EnrolmentRow)
            # 4. Burn one use; the condition and the count are one statement.
            row = token.to_row(TokenRow)
            _burn(session, row, now)
            # 5. Record everything; the certificate counts only if this commits.
            issued = issue()
            put_device(session, _device(claim, row, issued, now))
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
