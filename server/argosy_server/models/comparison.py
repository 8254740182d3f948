"""What two versions of a model differ in: for `argosy model diff`, on the command line's side.

Weights and answers are compared where ONNX Runtime and onnx are installed; else that is said, and the rest compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from argosy_common.artefact import Manifest
from argosy_common.artefact.golden import unpack_golden
from argosy_common.errors import ArgosyError, ExportToolsMissing
from argosy_server.models.onnx_file import OnnxModel

FIELDS = ("input", "output", "exits", "exit_confidence", "preprocessing", "labels", "codec", "secure", "backends")


def compared(old: Path, new: Path) -> dict[str, Any]:
    """Return how the version in the folder `new` differs from that in `old`; both hold the parts of an artefact.

    Raises:
        ArtefactInvalid: a folder holds no artefact.
    """
    before, after = (Manifest.parse((folder / "manifest.json").read_bytes()) for folder in (old, new))
    plain = before.model_dump(mode="json"), after.model_dump(mode="json")
    found: dict[str, Any] = {
        "models": [before.reference, after.reference],
        "metrics": {
            name: [before.metrics.get(name), after.metrics.get(name)]
            for name in sorted({*before.metrics, *after.metrics})
        },
        "bytes": [before.onnx.size, after.onnx.size],
        "changed": {name: [each[name] for each in plain] for name in FIELDS if plain[0][name] != plain[1][name]},
        "weights": None,
        "answers": None,
        "left_out": "",
    }
    try:
        found["weights"] = _weights(old / "model.onnx", new / "model.onnx")
        found["answers"] = _answers(old, new, before, after)
    except ArgosyError as error:
        found["left_out"] = error.message
    return found


def _weights(old: Path, new: Path) -> list[dict[str, Any]]:
    """Return, tensor by tensor, how far the new one is from the old, relative to its length."""
    try:
        import onnx  # noqa: PLC0415  (an extra)
    except ImportError:
        raise ExportToolsMissing(package="onnx") from None
    before, after = (
        {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer}
        for path in (old, new)
    )
    rows: list[dict[str, Any]] = []
    for name, was in before.items():
        now = after.get(name)
        alike = now is not None and now.shape == was.shape and np.issubdtype(was.dtype, np.floating)
        if now is not None and alike:
            length = float(np.linalg.norm(was.astype(np.float64)))
            moved = float(np.linalg.norm(now.astype(np.float64) - was))
            rows.append({"name": name, "shape": list(was.shape), "moved": moved / length if length else moved})
        elif now is None or now.shape != was.shape:
            rows.append({"name": name, "shape": list(was.shape), "moved": None})
    return sorted(rows, key=lambda row: -(row["moved"] if row["moved"] is not None else float("inf")))


def _answers(old: Path, new: Path, before: Manifest, after: Manifest) -> dict[str, Any] | None:
    """Return how the two answer the golden inputs of the new one; None where they take other inputs."""
    if (before.input.shape, before.input.dtype, before.output.shape) != (
        after.input.shape,
        after.input.dtype,
        after.output.shape,
    ):
        return None
    inputs, _ = unpack_golden((new / "golden.bin").read_bytes(), after)
    was, now = (
        OnnxModel(folder / "model.onnx").run(inputs, [manifest.output.name])[0]
        for folder, manifest in ((old, before), (new, after))
    )
    same = np.mean(np.argmax(was.reshape(len(was), -1), 1) == np.argmax(now.reshape(len(now), -1), 1))
    return {"inputs": len(inputs), "same_choice": float(same), "largest_difference": float(np.max(np.abs(now - was)))}
