"""The admin API as a FastAPI application. `server.AdminServer` puts it on a Unix socket; tests may call it directly."""

from __future__ import annotations

from fastapi import FastAPI

import argosy_common
from argosy_common.clock import Clock
from argosy_server.api.context import ApiContext
from argosy_server.api.faults import answer_errors
from argosy_server.api.port import CoordinatorPort
from argosy_server.api.routes import fleet, fleet_list, models, operations, rollouts, runs, upgrades
from argosy_server.api.waiting import Waiting


def create_app(port: CoordinatorPort, *, clock: Clock, waiting: Waiting | None = None) -> FastAPI:
    """Return the application over `port`. Whoever may reach it is an administrator: the socket's mode is the lock."""
    app = FastAPI(title="Argosy admin API", version=argosy_common.__version__, redirect_slashes=False)
    app.state.argosy = ApiContext(port=port, clock=clock, waiting=waiting or Waiting(clock))
    answer_errors(app)
    for area in (operations, fleet, fleet_list, models, rollouts, runs, upgrades):
        app.include_router(area.router, prefix="/v1")
    return app
