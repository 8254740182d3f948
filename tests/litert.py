"""A linear model as ONNX and as LiteRT has it: the same weights, written by hand. Needs ai-edge-litert."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.models import CLASSES, SHAPE


def linear_pair(seed: int = 1, *, off: float = 0.0) -> tuple[bytes, bytes]:
    """Return both; `off` is by how much LiteRT's is wrong."""
    rng = np.random.default_rng(seed)
    weights = (rng.normal(size=(CLASSES, int(np.prod(SHAPE)))) / 30).astype(np.float32)
    bias = rng.normal(size=CLASSES).astype(np.float32)
    return _onnx(weights, bias), _litert(weights, bias + np.float32(off))


def _onnx(weights: np.ndarray, bias: np.ndarray) -> bytes:
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["x"], ["f"]),
            helper.make_node("Gemm", ["f", "w", "b"], ["y"], transB=1),
        ],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *SHAPE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    data: bytes = model.SerializeToString()
    return data


def _litert(weights: np.ndarray, bias: np.ndarray) -> bytes:
    import flatbuffers  # noqa: PLC0415  (comes with the runtime)
    from ai_edge_litert import schema_py_generated as schema  # noqa: PLC0415

    model: Any = schema.ModelT()
    model.version = 3
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version = 1
    model.operatorCodes = [code]
    model.buffers = [_buffer(schema, None), _buffer(schema, weights), _buffer(schema, bias)]
    graph = schema.SubGraphT()
    graph.tensors = [
        _tensor(schema, "x", [1, *SHAPE], 0, [-1, *SHAPE]),
        _tensor(schema, "w", list(weights.shape), 1),
        _tensor(schema, "b", list(bias.shape), 2),
        _tensor(schema, "y", [1, CLASSES], 0, [-1, CLASSES]),
    ]
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0, 1, 2], [3]
    operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    operator.builtinOptions = schema.FullyConnectedOptionsT()
    graph.operators, graph.inputs, graph.outputs = [operator], [0], [3]
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _buffer(schema: Any, array: np.ndarray | None) -> Any:  # noqa: ANN401  (generated, untyped)
    made = schema.BufferT()
    if array is not None:
        made.data = np.frombuffer(array.tobytes(), np.uint8)
    return made


def _tensor(schema: Any, name: str, shape: list[int], buffer: int, free: list[int] | None = None) -> Any:  # noqa: ANN401
    made = schema.TensorT()
    made.name, made.shape, made.buffer = name.encode(), shape, buffer
    made.type = schema.TensorType.FLOAT32
    if free is not None:
        made.shapeSignature = free
    return made
