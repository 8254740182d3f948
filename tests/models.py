"""Small real models as ONNX files, and versions of them as a board keeps them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from argosy_client.inference.folder import CURRENT, GOLDEN, MANIFEST, ONNX, Version
from argosy_common.artefact import Manifest
from argosy_common.artefact.golden import pack_golden
from argosy_common.artefact.manifest import FORM_SUFFIX, Blob

SHAPE, CLASSES = (6, 128), 6
LABELS = ["walking", "upstairs", "downstairs", "sitting", "standing", "lying"]


def network(seed: int = 1, *, channels: int = 8) -> bytes:
    """Return a one-dimensional CNN over windows of 6 × 128 with six outputs."""
    rng = np.random.default_rng(seed)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        scale = np.sqrt(2.0 / np.prod(shape[1:]))
        return numpy_helper.from_array((rng.normal(size=shape) * scale).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], kernel_shape=[5], pads=[2, 2]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], kernel_shape=[5], strides=[2]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"]),
    ]
    tensors = [
        weights("w1", channels, 6, 5),
        numpy_helper.from_array(np.zeros(channels, np.float32), "b1"),
        weights("w2", channels, channels, 5),
        numpy_helper.from_array(np.zeros(channels, np.float32), "b2"),
        weights("w3", channels, CLASSES),
        numpy_helper.from_array(np.zeros(CLASSES, np.float32), "b3"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *SHAPE])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", CLASSES])
    graph = helper.make_graph(nodes, "har", [x], [y], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def windows(count: int, seed: int = 5) -> NDArray[np.float32]:
    """Return inputs, shape (count, 6, 128)."""
    return np.random.default_rng(seed).normal(size=(count, *SHAPE)).astype(np.float32)


def answers(model: bytes, inputs: NDArray[np.generic]) -> NDArray[np.float32]:
    """Return what ONNX Runtime itself makes of them."""
    found: NDArray[np.float32] = ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(
        None, {"x": inputs}
    )[0]
    return found


def blob(data: bytes) -> Blob:
    return Blob(digest=hashlib.sha256(data).hexdigest(), size=len(data))


def artefact(
    model: bytes,
    version: int,
    *,
    name: str = "har",
    golden: bytes | None = None,
    **fields: Any,  # noqa: ANN401  (the manifest's)
) -> tuple[Manifest, bytes]:
    """Return the manifest of a model, and its golden vectors."""
    inputs = windows(4)
    vectors = pack_golden(inputs, answers(model, inputs)) if golden is None else golden
    told: dict[str, Any] = {
        "name": name,
        "version": version,
        "created_at": "2026-11-01T00:00:00+00:00",
        "onnx": blob(model).model_dump(),
        "input": {"name": "x", "shape": list(SHAPE)},
        "output": {"name": "y", "shape": [CLASSES]},
        "labels": LABELS,
        "golden": {"blob": blob(vectors).model_dump(), "count": len(inputs)},
        **fields,
    }
    return Manifest.model_validate(told), vectors


def put(
    models: Path,
    model: bytes,
    version: int,
    *,
    name: str = "har",
    previous: int | None = None,
    forms: Mapping[str, bytes] = MappingProxyType({}),
    **fields: Any,  # noqa: ANN401  (the manifest's)
) -> Version:
    """Write a version's folder and put it in force, as the daemon does."""
    if forms:
        fields["forms"] = {each: blob(data).model_dump() for each, data in forms.items()}
    manifest, vectors = artefact(model, version, name=name, **fields)
    folder = models / name / str(version)
    folder.mkdir(parents=True)
    (folder / ONNX).write_bytes(model)
    (folder / GOLDEN).write_bytes(vectors)
    for each, data in forms.items():
        (folder / f"{each}{FORM_SUFFIX}").write_bytes(data)
    (folder / MANIFEST).write_bytes(manifest.canonical())
    (folder.parent / CURRENT).write_text(f'{{"version": {version}, "previous": {previous or "null"}}}')
    return Version.open(folder)


def samples(models: Path, count: int = 64, *, name: str = "har") -> None:
    """Leave inputs that the board is to have seen."""
    stream = io.BytesIO()
    np.save(stream, windows(count, seed=9))
    (models / name).mkdir(parents=True, exist_ok=True)
    (models / name / "samples.npy").write_bytes(stream.getvalue())
