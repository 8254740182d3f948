"""Versions of models. `{reference}` is `name:version`, `name:latest`, or `name` for its newest one."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse

from argosy_common.artefact import Manifest
from argosy_server.api.context import Caller, Context
from argosy_server.api.views import View
from argosy_server.store import ModelRow

router = APIRouter()


@router.get("/models")
def list_models(context: Context) -> View:
    """Return all versions, by name, the newest first."""
    return {"models": [_view(row) for row in context.port.store.models.list()]}


@router.get("/models/{reference}")
def show_model(reference: str, context: Context) -> View:
    """Return all that is known of a version."""
    row = context.port.store.models.get(reference)
    signer = context.port.models.signer(row)
    manifest = Manifest.parse(row.manifest).model_dump(mode="json")
    signed = {"by": signer.name, "certificate": signer.serial, "until": signer.not_after.isoformat()}
    signed["fault"] = signer.fault
    return {**_view(row), "manifest": manifest, "signature": signed}


@router.get("/models/{reference}/parts/{part}")
def download_part(
    reference: str, part: Literal["manifest", "signature", "onnx", "golden"], context: Context
) -> Response:
    """Return a part of a version's artefact, as boards get it."""
    found = context.port.models.part(context.port.store.models.get(reference), part)
    if isinstance(found, bytes):
        return Response(found, media_type="application/octet-stream")
    path = context.port.blobs.checked(bytes.fromhex(found.digest))
    return FileResponse(path, media_type="application/octet-stream")


@router.post("/models/{reference}/promote")
def promote_model(reference: str, context: Context, caller: Caller) -> View:
    """Make a version the one that is meant for boards."""
    return _view(context.port.store.models.promote(reference, caller))


def _view(row: ModelRow) -> View:
    manifest = Manifest.parse(row.manifest)
    return {
        "model": row.reference,
        "name": row.name,
        "version": row.version,
        "parent": manifest.parent,
        "run": row.run,
        "round": row.round,
        "metrics": manifest.metrics,
        "codec": manifest.codec,
        "secure": manifest.secure,
        "onnx": manifest.onnx.model_dump(),
        "created_at": row.created_at.isoformat(),
        "promoted_at": row.promoted_at.isoformat() if row.promoted_at else None,
    }
