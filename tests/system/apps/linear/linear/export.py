"""The weights as an ONNX file; or what a hook should not do."""

import os
import pickle
import time

from flwr.app import ArrayRecord
from onnx import TensorProto, helper, numpy_helper


def export_model(arrays: ArrayRecord, config: dict) -> bytes:
    """Return y = x W + b."""
    fault = config["fault"]
    if fault == "raise":
        raise RuntimeError("no idea how")
    if fault == "hang":
        time.sleep(600)
    if fault == "crash":
        os.abort()
    if fault == "pickle":
        return pickle.dumps(arrays.to_numpy_ndarrays())
    weights, bias = arrays.to_numpy_ndarrays()
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


def a_form(arrays: ArrayRecord) -> bytes:
    """Return what only a board with LiteRT would look at, and refuse."""
    return b"no model at all, " + arrays.to_numpy_ndarrays()[1].tobytes()
