"""A coordinator that boards can join: the real store, authority and enrolment server, and a clock that can be set."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from argosy_client.identity import Enrolment
from argosy_client.join import join
from argosy_common import x509
from argosy_common.clock import SystemClock
from argosy_server.ca import CertificateAuthority
from argosy_server.enrolment import EnrolmentServer
from argosy_server.store import Store


class SetClock(SystemClock):
    """The coordinator's clock: shows what the test says, and goes on from there."""

    def __init__(self, shown: datetime) -> None:
        self.shift = shown - datetime.now(UTC)

    def wall(self) -> datetime:
        return super().wall() + self.shift


@dataclasses.dataclass
class Yard:
    """A coordinator that devices join."""

    folder: Path
    clock: SetClock
    store: Store
    ca: CertificateAuthority
    brokers: list[tuple[str, int]]
    server: EnrolmentServer = dataclasses.field(init=False)

    def serve(self, port: int = 0) -> None:
        """Let boards join and renew, on `port`; 0: a free one."""
        self.server = EnrolmentServer(
            self.store,
            self.ca,
            clock=self.clock,
            host="127.0.0.1",
            port=port,
            hosts=["127.0.0.1"],
            brokers=lambda: self.brokers,
        )
        self.server.start()

    def token(self, **options: Any) -> str:  # noqa: ANN401  (of Tokens.create)
        return self.store.tokens.create(**options)[1]

    def used(self) -> int:
        return sum(token.used for token in self.store.tokens.list())

    def join(
        self,
        name: str,
        token: str | None = None,
        *,
        force: bool = False,
        pin: str | None = None,
        operator: x509.PublicKey | None = None,
    ) -> Enrolment:
        return join(
            self.server.url,
            token or self.token(),
            pin or self.ca.pin,
            self.folder / name,
            name,
            clock=SystemClock(),
            operator=operator,
            force=force,
        )


def open_yard(folder: Path, shown: datetime) -> Iterator[Yard]:
    """Start one in `folder`, whose clock shows `shown`."""
    clock = SetClock(shown)
    with Store.open(f"sqlite:///{folder / 'coordinator.db'}", clock) as store:
        ca = CertificateAuthority.open(folder / "ca", clock)
        brokers = [("10.0.0.5", 8883), ("board.local", 8883)]
        yard = Yard(folder, clock, store, ca, brokers)
        yard.serve()
        yield yard
        yard.server.stop()
