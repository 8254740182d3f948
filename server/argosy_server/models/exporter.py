"""The run process's part of an export: starts the export's own process, bounds its time, and takes what came of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from argosy_common.artefact.manifest import FORM_SUFFIX, Blob
from argosy_common.blobs import BlobRef, BlobStore
from argosy_common.clock import Clock
from argosy_common.errors import ArgosyError, ModelExportFailed, ModelExportTimeout, error_from_wire
from argosy_common.files import private_folder
from argosy_server.models.draft import Draft
from argosy_server.models.settings import ModelSettings

_POLL_S = 0.25
_MOST_OUTCOME = 1024 * 1024


def export_model(
    settings: ModelSettings,
    final: BlobRef,
    store: BlobStore,
    *,
    app: Path,
    run_config: Mapping[str, Any],
    folder: Path,
    clock: Clock,
    stopped: Callable[[], bool] = lambda: False,
) -> Draft:
    """Have the app in `app` export its final arrays; return the draft, whose blobs are in the store by then.

    Args:
        final: the final arrays, a blob of `store`.
        folder: where the work is done; it is removed afterwards.
        stopped: asked again and again whether to give up.

    Raises:
        ModelExportFailed, ModelExportTimeout, OnnxRefused, ExportToolsMissing: why there is no model.
        DiskFull, StorageFailed: as they say.
    """
    job = {
        "settings": settings.to_wire(),
        "store": str(store.root),
        "digest": final.hex,
        "size": final.size,
        "app": str(app),
        "run_config": dict(run_config),
    }
    shutil.rmtree(folder, ignore_errors=True)
    try:
        path = private_folder(folder) / "job.json"
        path.write_text(json.dumps(job))
        code = _run(path, settings.time_limit_s, clock, stopped)
        draft = _outcome(folder / "outcome.json", code)
        forms = {f"{name}{FORM_SUFFIX}": blob for name, blob in draft.forms.items()}
        for file, blob in {"model.onnx": draft.onnx, "golden.bin": draft.golden.blob, **forms}.items():
            _keep(folder / file, blob, store)
        return draft
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(job: Path, limit_s: float, clock: Clock, stopped: Callable[[], bool]) -> int:
    """Run the export's process to its end; return its exit code. Its output goes where this process's goes."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "argosy_server.models.export_process", str(job)],
        cwd=job.parent,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    deadline = clock.monotonic() + limit_s
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                return process.wait(_POLL_S)
            if stopped():
                raise ModelExportFailed(why="the run was stopped meanwhile")
            if clock.monotonic() >= deadline:
                raise ModelExportTimeout(seconds=f"{limit_s:g}")
    finally:
        process.kill()  # what the hook has started besides goes with the run's process group
        process.wait()


def _outcome(path: Path, code: int) -> Draft:
    try:
        data = json.loads(path.read_bytes()[:_MOST_OUTCOME]) if path.exists() else {}
    except ValueError:
        data = {}
    if isinstance(data, dict) and isinstance(data.get("error"), dict):
        error: ArgosyError = error_from_wire(data["error"])
        raise error
    if not isinstance(data, dict) or not isinstance(data.get("draft"), dict):
        raise ModelExportFailed(why=f"its process ended with {_words(code)}")
    return Draft.from_wire(data["draft"])


def _keep(path: Path, blob: Blob, store: BlobStore) -> None:
    ref = store.put_file(path)
    if (ref.hex, ref.size) != (blob.digest, blob.size):
        raise ModelExportFailed(why=f"{path.name} changed while it was looked at")


def _words(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code} and no word"
