"""Join tokens. Only the hash of a token's secret is kept; the text is shown once, when it is made."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from datetime import timedelta

from sqlalchemy import select

from argosy_common.clock import Clock
from argosy_common.errors import SettingsInvalid, TokenUnknown
from argosy_server.store.database import Database
from argosy_server.store.rows import TokenRow
from argosy_server.store.tables import Token

MAX_USES = 100_000
MAX_TTL_S = 365 * 86400


class Tokens:
    """The table of tokens."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def create(
        self,
        site: str = "default",
        uses: int = 1,
        ttl_s: float = 3600.0,
        tags: Iterable[str] = (),
        *,
        approve: bool = True,
    ) -> tuple[TokenRow, str]:
        """Make a token for `uses` devices within `ttl_s` seconds; return it and its text `id.secret`.

        Without `approve` an operator decides on each device that comes with it.

        Raises:
            SettingsInvalid: no such number of uses or such a time is possible.
        """
        if not 1 <= uses <= MAX_USES:
            raise SettingsInvalid(name="uses", why=f"{uses} is not between 1 and {MAX_USES}", source="the command")
        if not 0 < ttl_s <= MAX_TTL_S:
            raise SettingsInvalid(name="ttl", why=f"{ttl_s} s is not between 0 and a year", source="the command")
        now = self._clock.wall()
        secret = secrets.token_urlsafe(24)
        token = Token(
            id=secrets.token_hex(4),
            secret_hash=secret_hash(secret),
            site=site,
            uses=uses,
            used=0,
            tags=list(tags),
            created_at=now,
            expires_at=now + timedelta(seconds=ttl_s),
            approve=approve,
        )
        with self._database.write() as session:
            session.add(token)
            session.flush()
            return token.to_row(TokenRow), f"{token.id}.{secret}"

    def list(self) -> list[TokenRow]:
        """Return all tokens, the newest first."""
        with self._database.read() as session:
            found = session.scalars(select(Token).order_by(Token.created_at.desc(), Token.id))
            return [token.to_row(TokenRow) for token in found]

    def revoke(self, token: str) -> TokenRow:
        """End a token's time now.

        Raises:
            TokenUnknown: no token of that id.
        """
        with self._database.write() as session:
            found = session.get(Token, token)
            if found is None:
                raise TokenUnknown
            found.expires_at = min(found.expires_at, self._clock.wall())
            return found.to_row(TokenRow)


def secret_hash(secret: str) -> str:
    """Return what is stored for a secret. Secrets have 192 random bits, so no slow hash is needed."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
