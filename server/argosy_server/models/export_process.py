"""The export's own process: `python -m argosy_server.models.export_process JOB`, started by `exporter`.

The app's hook may hang, crash or take all memory: that ends this process and nothing else. What came of it lies beside
the job: `model.onnx`, `golden.bin` and `outcome.json`, which holds a draft or a named error.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord

from argosy_common.artefact.manifest import FORM_SUFFIX, Blob
from argosy_common.blobs import BlobRef, BlobStore
from argosy_common.errors import ArgosyError, ExportToolsMissing, ModelExportFailed
from argosy_common.files import write_atomic
from argosy_common.flower.arrays import read_arrays
from argosy_server.models.onnx_file import examine
from argosy_server.models.settings import ModelSettings

TOOLS = ("onnx", "onnxscript", "onnxruntime", "onnx_ir")


def main() -> None:
    """Do the job that the file in the first argument describes."""
    path = Path(sys.argv[1])
    outcome: dict[str, Any]
    try:
        outcome = {"draft": export(json.loads(path.read_text()), path.parent)}
    except ArgosyError as error:
        traceback.print_exc()
        outcome = {"error": error.to_wire()}
    write_atomic(path.with_name("outcome.json"), json.dumps(outcome).encode())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # an app may have left threads that would keep the process


def export(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Call the app's hooks; return the draft of what they made, which lies in `folder`.

    Raises:
        ModelExportFailed, OnnxRefused, ExportToolsMissing: what is wrong.
    """
    settings = ModelSettings.from_wire(job["settings"])
    arrays = read_arrays(BlobRef(bytes.fromhex(job["digest"]), job["size"]), BlobStore(Path(job["store"])))
    sys.path.insert(0, job["app"])
    data = _call(settings.export, arrays, job["run_config"])
    if not isinstance(data, bytes | bytearray | memoryview):
        raise ModelExportFailed(why=f"it returned a {type(data).__name__}, not the bytes of an ONNX file")
    model = folder / "model.onnx"
    model.write_bytes(data)
    samples = _call(settings.samples, job["run_config"]) if settings.samples else None
    draft, golden = examine(model, settings, samples)
    (folder / "golden.bin").write_bytes(golden)
    forms = {name: _form(name, hook, arrays, job, folder) for name, hook in settings.forms.items()}
    return draft.model_copy(update={"forms": forms}).to_wire()


def _form(name: str, hook: str, arrays: ArrayRecord, job: dict[str, Any], folder: Path) -> Blob:
    """Have the app make the model's form for another runtime; boards check its answers, which nothing here can."""
    data = _call(hook, arrays, job["run_config"])
    if not isinstance(data, bytes | bytearray | memoryview) or not data:
        raise ModelExportFailed(why=f"its form for {name} is a {type(data).__name__}, not the bytes of a file")
    if bytes(data[:2]) == b"PK" or bytes(data[:1]) == b"\x80":
        raise ModelExportFailed(why=f"its form for {name} is a pickle or what torch.save writes")
    (folder / f"{name}{FORM_SUFFIX}").write_bytes(data)
    return Blob(digest=hashlib.sha256(data).hexdigest(), size=len(data))


def _call(component: str, *offered: object) -> Any:  # noqa: ANN401  (whatever an app returns)
    """Call `module:attribute` of the app with as many of the arguments `offered` as it takes."""
    module, _, attribute = component.partition(":")
    try:
        hook: Any = importlib.import_module(module)
        for name in attribute.split("."):
            hook = getattr(hook, name)
        return hook(*offered[: _takes(hook)])
    except ArgosyError:
        raise
    except ImportError as error:
        if error.name and error.name.split(".")[0] in TOOLS:
            raise ExportToolsMissing(package=error.name.split(".")[0]) from error
        raise ModelExportFailed(why=f"{component}: {type(error).__name__}: {error}") from error
    except (Exception, SystemExit) as error:
        raise ModelExportFailed(why=f"{component}: {type(error).__name__}: {str(error)[:500]}") from error


def _takes(hook: Callable[..., object]) -> int:
    """Return how many positional arguments a hook takes."""
    kinds = [parameter.kind for parameter in inspect.signature(hook).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return len(kinds) + 1
    return sum(kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD) for kind in kinds)


if __name__ == "__main__":
    main()
