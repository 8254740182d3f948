"""OpenVINO: Intel's processors and graphics, and ARM processors."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from argosy_client.inference.backend import Array, Material


class _Session:
    """A compiled model."""

    def __init__(self, material: Material) -> None:
        import openvino  # noqa: PLC0415  (only who opens a model needs it)

        core = openvino.Core()
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": material.threads,
            "INFERENCE_PRECISION_HINT": "f32",  # it takes bfloat16 by itself where a processor has that: off by 1 %
        }
        compiled: Any = core.compile_model(core.read_model(str(material.model)), "CPU", settings)
        self._request: Any = compiled.create_infer_request()
        self._output = compiled.output(material.manifest.output.name)
        self.ran_on = ", ".join(compiled.get_property("EXECUTION_DEVICES"))

    def run(self, batch: Array) -> Array:
        """See `Session.run`."""
        found = self._request.infer([batch])
        return np.array(found[self._output])

    def close(self) -> None:
        """See `Session.close`."""
        self._request = None


class OpenVino:
    """As it was exported, in float32, on the CPU."""

    name = "openvino"
    exact = True
    tested = True

    def unavailable(self, root: Path) -> str | None:  # noqa: ARG002  (of `Backend`)
        """See `Backend.unavailable`."""
        return None if find_spec("openvino") else "openvino is not installed: pip install 'argosy[openvino]'"

    def open(self, material: Material) -> _Session:
        """See `Backend.open`."""
        return _Session(material)
