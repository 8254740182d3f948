"""What every endpoint gets: the coordinator, the waits, and who is calling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from argosy_common.clock import Clock
from argosy_server.api.port import CoordinatorPort
from argosy_server.api.waiting import Waiting


@dataclass(frozen=True)
class ApiContext:
    """The collaborators of all endpoints, kept in the application's state."""

    port: CoordinatorPort
    clock: Clock
    waiting: Waiting


def _context(request: Request) -> ApiContext:
    context: ApiContext = request.app.state.argosy
    return context


def _caller(request: Request) -> str:
    """Return the user behind the socket, as the kernel tells it (`server.PeerProtocol`), for the audit log."""
    return f"user:{request.client.host}" if request.client and request.client.host else "user:unknown"


Context = Annotated[ApiContext, Depends(_context)]
Caller = Annotated[str, Depends(_caller)]
