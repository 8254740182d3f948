"""App bundles and runs: upload, start, stop, list, follow."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field

from argosy_common.blobs import BlobRef
from argosy_common.errors import AdminRequestInvalid, BlobUnknown
from argosy_common.run_settings import MAX_PATTERNS, Name, Pattern
from argosy_server.api.context import ApiContext, Caller, Context
from argosy_server.api.logs import read_log
from argosy_server.api.views import View, event_view, run_view

router = APIRouter()

LARGEST_BUNDLE = 16 * 1024 * 1024
"""Bytes of an uploaded app; `argosy_common.bundle` packs no more than 10 MB, this is the wall behind it."""

Key = Annotated[str, Field(min_length=1, max_length=256)]
Wait = Annotated[float, Query(ge=0, le=25, allow_inf_nan=False)]


class CodecFlags(BaseModel):
    """What a command says of codecs; it overrides what the app says."""

    model_config = ConfigDict(extra="forbid")

    up: Name | None = None
    down: Name | None = None
    arrays: Annotated[list[tuple[Pattern, Name]], Field(max_length=MAX_PATTERNS)] = []


class NewRun(BaseModel):
    """What `POST /v1/runs` takes."""

    model_config = ConfigDict(extra="forbid")

    bundle: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=1, le=LARGEST_BUNDLE)]
    rounds: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    config: Annotated[dict[Key, Annotated[str, Field(max_length=4096)]], Field(max_length=512)] = {}
    codec: CodecFlags = CodecFlags()
    secure: bool | None = None
    """Whether to aggregate securely; null: as the app says."""
    straggler: Annotated[
        dict[Key, bool | int | float | Annotated[str, Field(max_length=128)]], Field(max_length=32)
    ] = {}
    """What the run does about slow devices, over what the app says; see `StragglerSettings`."""


@router.put("/bundles", status_code=201)
async def upload_bundle(request: Request, context: Context) -> View:
    """Store an app bundle and return the digest that names it."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > LARGEST_BUNDLE:
            raise AdminRequestInvalid(why=f"an app bundle may have at most {LARGEST_BUNDLE} bytes")
    if not body:
        raise AdminRequestInvalid(why="the app bundle is empty")
    ref = await run_in_threadpool(context.port.blobs.put_bytes, bytes(body))
    return {"digest": ref.hex, "size": ref.size}


@router.post("/runs", status_code=201)
def start_run(wanted: NewRun, context: Context, caller: Caller) -> View:
    """Start a run of an uploaded bundle."""
    port = context.port
    bundle = BlobRef(bytes.fromhex(wanted.bundle), wanted.size)
    if not port.blobs.has(bundle.digest):
        raise BlobUnknown(peer="The coordinator", digest=wanted.bundle[:12])
    layers = {
        "codec": wanted.codec.model_dump(exclude_none=True),
        "secure": wanted.secure,
        "straggler": wanted.straggler,
    }
    run = port.start_run(bundle, wanted.rounds, wanted.config, layers)
    port.store.audit.write(caller, "run.start", f"run {run}", bundle=wanted.bundle, config=wanted.config, **layers)
    options = port.store.runs.get(run).options
    return {"run": run, **{name: options.get(name) for name in ("secure", "straggler")}}


@router.post("/runs/{run}/repeat", status_code=201)
def repeat_run(run: int, context: Context, caller: Caller) -> View:
    """Start a run again: the same app and configuration."""
    again = context.port.repeat_run(run)
    context.port.store.audit.write(caller, "run.repeat", f"run {again}", repeats=run)
    return {"run": again, "repeats": run}


@router.get("/runs")
def list_runs(context: Context) -> View:
    """Return all runs, oldest first."""
    rows = sorted(context.port.store.runs.list(), key=lambda row: row.id)
    return {"runs": [run_view(row) for row in rows]}


@router.get("/runs/{run}")
def show_run(run: int, context: Context) -> View:
    """Return one run."""
    return run_view(context.port.store.runs.get(run))


@router.post("/runs/{run}/stop")
def stop_run(run: int, context: Context, caller: Caller) -> View:
    """Stop a run, and return it as it was when it was asked to; one that is over stays as it is."""
    port = context.port
    row = port.store.runs.get(run)
    if not row.over:
        port.stop_run(run)
        port.store.audit.write(caller, "run.stop", f"run {run}")
    return run_view(row)


@router.get("/runs/{run}/events")
def events(
    run: int,
    context: Context,
    after: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 500,
    wait: Wait = 0,
) -> View:
    """Return the events after number `after`; with `wait`, hold the answer up to so many seconds for the first.

    `over` is true when the run has ended and these are its last events.
    """
    store = context.port.store
    over = store.runs.get(run).over  # read before the events: what comes after the end is not missed
    if not over:
        context.waiting.until(lambda slice_s: context.port.wait_event(run, after, slice_s), wait)
        over = store.runs.get(run).over
    rows = store.events.after(run, after, limit)
    return {"events": [event_view(row) for row in rows], "over": over and len(rows) < limit}


@router.get("/runs/{run}/live")
def live(run: int, context: Context) -> View:
    """Return what each device of the run is doing."""
    context.port.store.runs.get(run)
    return {"devices": [dict(row) for row in context.port.live(run)]}


@router.get("/runs/{run}/logs")
def logs(run: int, context: Context, offset: Annotated[int, Query(ge=0)] = 0, wait: Wait = 0) -> View:
    """Return the run's log from byte `offset` on, the offset to ask for next, and whether this was all of it."""
    path = context.port.run_log_path(run)
    over = _is_over(context, run)
    piece = read_log(path, offset)

    def grown(slice_s: float) -> bool:
        nonlocal piece, over
        context.waiting.pause(slice_s)
        over = _is_over(context, run)
        piece = read_log(path, offset)
        return over or piece.text != ""

    if not piece.text and not over:
        context.waiting.until(grown, wait)
    return {"text": piece.text, "offset": piece.offset, "over": over and piece.at_end}


def _is_over(context: ApiContext, run: int) -> bool:
    return context.port.store.runs.get(run).over
