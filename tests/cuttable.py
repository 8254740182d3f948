"""Models with places to cut and exits to take, for tests."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.models import CLASSES, SHAPE

EXITS = ("e1", "e2")


def staged(seed: int = 1, *, width: int = 16, skip: bool = True, exits: bool = True) -> bytes:
    """Return three blocks with a shortcut around the second; after the first two, an exit each.

    x → b1 (→ e1) → b2, around a shortcut (→ e2) → b3 → y. Inputs are windows of `tests.models`.
    """
    rng = np.random.default_rng(seed)
    weights: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []

    def weight(name: str, *shape: int) -> str:
        scale = np.sqrt(2.0 / np.prod(shape[1:]))
        weights.append(numpy_helper.from_array((rng.normal(size=shape) * scale).astype(np.float32), name))
        return name

    def block(name: str, given: str, channels: int, stride: int) -> str:
        kernel = weight(f"{name}.w", width, channels, 3)
        nodes.append(
            helper.make_node("Conv", [given, kernel], [f"{name}.c"], kernel_shape=[3], pads=[1, 1], strides=[stride])
        )
        nodes.append(helper.make_node("Relu", [f"{name}.c"], [name]))
        return name

    def answer(name: str, given: str) -> None:
        nodes.append(helper.make_node("GlobalAveragePool", [given], [f"{name}.p"]))
        nodes.append(helper.make_node("Flatten", [f"{name}.p"], [f"{name}.f"]))
        nodes.append(helper.make_node("Gemm", [f"{name}.f", weight(f"{name}.w", width, CLASSES)], [name]))

    last = block("b1", "x", SHAPE[0], 4)
    if exits:
        answer("e1", last)
    inner = block("b2", last, width, 1)
    if skip:
        nodes.append(helper.make_node("Add", [inner, last], ["sum"]))
        inner = "sum"
    if exits:
        answer("e2", inner)
    answer("y", block("b3", inner, width, 2))
    outputs = ["y", *(EXITS if exits else ())]
    graph = helper.make_graph(
        nodes,
        "staged",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *SHAPE])],
        [helper.make_tensor_value_info(each, TensorProto.FLOAT, ["n", CLASSES]) for each in outputs],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def exits_of(model: bytes, inputs: NDArray[np.generic]) -> dict[str, NDArray[np.float32]]:
    """Return what ONNX Runtime makes of inputs, by the name of each output."""
    import onnxruntime as ort  # noqa: PLC0415  (as in tests.models)

    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, {"x": inputs}), strict=True))


MANIFEST_EXITS = [{"name": name, "shape": [CLASSES]} for name in EXITS]
