"""ONNX Runtime: the default. In float32 or int8 on the CPU, and through whatever else the installed build can use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from argosy_client.inference.backend import Array, Material

LEAST_SAMPLES = 32
"""Of the board's own inputs, to calibrate int8 by and to judge it: fewer say nothing."""


class _Session:
    """An `onnxruntime.InferenceSession`."""

    def __init__(self, model: Path, providers: list[str], threads: int, output: str) -> None:
        import onnxruntime as ort  # noqa: PLC0415  (only who opens a model needs it)

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session: Any = ort.InferenceSession(str(model), options, providers=providers)
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output]
        self.ran_on = ", then ".join(each.removesuffix("ExecutionProvider") for each in self._session.get_providers())

    def run(self, batch: Array) -> Array:
        """See `Session.run`."""
        found: Array = self._session.run(self._outputs, {self._input: batch})[0]
        return found

    def close(self) -> None:
        """See `Session.close`."""
        self._session = None


class Fp32:
    """As it was exported, on the CPU."""

    name = "onnxruntime"
    exact = True
    tested = True

    def unavailable(self, root: Path) -> str | None:  # noqa: ARG002  (of `Backend`)
        """See `Backend.unavailable`."""
        return None if find_spec("onnxruntime") else "onnxruntime is not installed: pip install 'argosy[inference]'"

    def open(self, material: Material) -> _Session:
        """See `Backend.open`."""
        return _Session(material.model, ["CPUExecutionProvider"], material.threads, material.manifest.output.name)


class Int8:
    """Weights in int8 and activations in uint8, calibrated on the board's own inputs; needs the package onnx."""

    name = "onnxruntime-int8"
    exact = False
    tested = True
    _activations: ClassVar[str] = "QUInt8"

    def unavailable(self, root: Path) -> str | None:
        """See `Backend.unavailable`."""
        return Fp32().unavailable(root) or (
            None
            if find_spec("onnx")
            else "onnx is not installed, which int8 is made with: pip install 'argosy[export]'"
        )

    def open(self, material: Material) -> _Session:
        """See `Backend.open`."""
        count = len(material.samples)
        if count < LEAST_SAMPLES:
            raise ValueError(f"{LEAST_SAMPLES} inputs of this board are needed to calibrate by, and there are {count}")
        made = material.work / f"{self.name}.onnx"
        if not made.exists():
            self._quantise(material, made)
        return _Session(made, ["CPUExecutionProvider"], material.threads, material.manifest.output.name)

    def _quantise(self, material: Material, target: Path) -> None:
        from onnxruntime import quantization  # noqa: PLC0415  (slow to import)

        partial = target.with_suffix(".partial")
        kind = getattr(quantization.QuantType, self._activations)
        quantization.quantize_static(
            str(material.model),
            str(partial),
            _Reader(material.manifest.input.name, material.samples),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=kind,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
        )
        partial.replace(target)


class Int8Signed(Int8):
    """The same with signed activations: which of the two is faster differs from one processor to the next."""

    name = "onnxruntime-int8-signed"
    _activations = "QInt8"


class _Reader:
    """Gives the calibration its samples, one by one (`onnxruntime.quantization.CalibrationDataReader`)."""

    def __init__(self, name: str, samples: Array) -> None:
        self._feeds: Iterator[dict[str, Array]] = iter({name: sample[np.newaxis]} for sample in samples)

    def get_next(self) -> dict[str, Array] | None:
        """Return the next input; None at the end."""
        return next(self._feeds, None)


class _Provider:
    """What the installed build can use beside the CPU."""

    name = ""
    exact = True
    tested = False
    provider: ClassVar[str] = ""
    devices: ClassVar[tuple[str, ...]] = ()
    """Any of these must be there."""

    def unavailable(self, root: Path) -> str | None:
        """See `Backend.unavailable`."""
        if missing := Fp32().unavailable(root):
            return missing
        if not any((root / device).exists() for device in self.devices):
            return f"this board has no {' or '.join(f'/{device}' for device in self.devices)}"
        import onnxruntime as ort  # noqa: PLC0415  (only where there is such hardware)

        known = ort.get_available_providers()
        if self.provider not in known:
            return f"the installed onnxruntime has no {self.provider}; it has {', '.join(known)}"
        return None

    def open(self, material: Material) -> _Session:
        """See `Backend.open`."""
        os.environ.setdefault("ORT_TENSORRT_ENGINE_CACHE_ENABLE", "1")
        os.environ.setdefault("ORT_TENSORRT_CACHE_PATH", str(material.work))
        wanted = [self.provider, "CPUExecutionProvider"]
        return _Session(material.model, wanted, material.threads, material.manifest.output.name)


class Cuda(_Provider):
    """NVIDIA, through a build of ONNX Runtime with CUDA."""

    name = "onnxruntime-cuda"
    provider = "CUDAExecutionProvider"
    devices = ("dev/nvidia0", "dev/nvhost-gpu")


class TensorRt(_Provider):
    """NVIDIA, through a build with TensorRT, which makes an engine on the board once for each version."""

    name = "onnxruntime-tensorrt"
    provider = "TensorrtExecutionProvider"
    devices = ("dev/nvidia0", "dev/nvhost-gpu")
