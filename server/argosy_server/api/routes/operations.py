"""Health, checks and the audit log."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from argosy_server.api.context import Context
from argosy_server.api.views import View, audit_view

router = APIRouter()


@router.get("/health")
def health(context: Context) -> View:
    """Return what the coordinator says of itself."""
    return dict(context.port.health())


@router.get("/doctor")
def doctor(context: Context) -> View:
    """Check the installation."""
    return {"checks": [dict(check) for check in context.port.doctor()]}


@router.get("/audit")
def audit(context: Context, limit: Annotated[int, Query(ge=1, le=10_000)] = 100) -> View:
    """Return the last entries of the audit log, oldest first."""
    return {"entries": [audit_view(row) for row in context.port.store.audit.tail(limit)]}
