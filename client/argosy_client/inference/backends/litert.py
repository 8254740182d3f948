"""LiteRT (once TensorFlow Lite): the smallest runtime. It runs files of its own form, made by the app beside the ONNX.

`[tool.argosy.model.forms]` of the app names the hooks: `litert = "my_app.export:to_litert"` for float32, `litert-int8`
for what was quantised. The input and the output are the model's first; a quantised one is converted on the way.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from argosy_client.inference.backend import Array, Material


class _Session:
    """An interpreter, resized to the batch at hand."""

    ran_on = "CPU (LiteRT)"

    def __init__(self, model: Path, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415  (only who opens a model needs it)

        self._interpreter: Any = Interpreter(model_path=str(model), num_threads=threads)
        self._shape: tuple[int, ...] = ()

    def run(self, batch: Array) -> Array:
        """See `Session.run`."""
        interpreter = self._interpreter
        if batch.shape != self._shape:
            interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], batch.shape)
            interpreter.allocate_tensors()
            self._shape = batch.shape
        given, told = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        interpreter.set_tensor(given["index"], _quantised(batch, given))
        interpreter.invoke()
        return _exact(np.array(interpreter.get_tensor(told["index"])), told)

    def close(self) -> None:
        """See `Session.close`."""
        self._interpreter = None


class LiteRt:
    """Its float32 form, on the CPU."""

    name = "litert"
    exact = True
    tested = True

    def unavailable(self, root: Path) -> str | None:  # noqa: ARG002  (of `Backend`)
        """See `Backend.unavailable`."""
        return None if find_spec("ai_edge_litert") else "LiteRT is not installed: pip install 'argosy[litert]'"

    def open(self, material: Material) -> _Session:
        """See `Backend.open`.

        Raises:
            ValueError: the version comes without this form.
        """
        if material.form is None:
            raise ValueError(f"this version has no file for it: the app exports none as `forms.{self.name}`")
        return _Session(material.form, material.threads)


class LiteRtInt8(LiteRt):
    """Its quantised form: it must agree with float32 on this board's own inputs."""

    name = "litert-int8"
    exact = False


def _quantised(batch: Array, tensor: dict[str, Any]) -> Array:
    """Return a batch as an input tensor takes it."""
    scale, zero = tensor["quantization"]
    dtype = np.dtype(tensor["dtype"])
    if not scale or batch.dtype == dtype:
        return batch.astype(dtype)
    limits = np.iinfo(dtype)
    return np.asarray(np.clip(np.rint(batch / scale) + zero, limits.min, limits.max), dtype)


def _exact(outputs: Array, tensor: dict[str, Any]) -> Array:
    """Return outputs as numbers again."""
    scale, zero = tensor["quantization"]
    return np.asarray((outputs.astype(np.float32) - zero) * scale, np.float32) if scale else outputs
