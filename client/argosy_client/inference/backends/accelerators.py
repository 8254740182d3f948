"""Accelerators that cannot run an ONNX file as it comes: they say what they would need. None was tested on hardware.

Coral and Hailo run files that their makers' compilers make on an x86 machine. None of these can be made on the board
from each round's model, so today each says so wherever its hardware and runtime are there.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from argosy_client.inference.backend import Material, Session


class _Accelerator:
    name = ""
    exact = False
    tested = False
    package: ClassVar[str] = ""
    devices: ClassVar[tuple[str, ...]] = ()
    form: ClassVar[str] = ""

    def unavailable(self, root: Path) -> str | None:
        """See `Backend.unavailable`."""
        if self.devices and not any((root / device).exists() for device in self.devices) and not self.on_usb(root):
            return f"this board has no {' or '.join(f'/{device}' for device in self.devices)}"
        if not find_spec(self.package):
            return f"the package {self.package} is not installed"
        return f"it runs {self.form}, and nothing on a board makes that of an ONNX file"

    def on_usb(self, root: Path) -> bool:  # noqa: ARG002  (for those that may be)
        """Tell whether it is plugged in."""
        return False

    def open(self, material: Material) -> Session:
        """See `Backend.open`; it never is, since it is unavailable."""
        raise NotImplementedError(self.unavailable(Path("/")))


class EdgeTpu(_Accelerator):
    """Coral, on PCIe or USB."""

    name = "edgetpu"
    package = "ai_edge_litert"
    devices = ("dev/apex_0",)
    form = "models that the Edge TPU compiler made on an x86 machine"

    def on_usb(self, root: Path) -> bool:
        """Look for the two ids that a Coral stick has, before and after its first use."""
        for vendor in root.glob("sys/bus/usb/devices/*/idVendor"):
            ids = (_text(vendor), _text(vendor.with_name("idProduct")))
            if ids in {("1a6e", "089a"), ("18d1", "9302")}:
                return True
        return False


class Hailo(_Accelerator):
    """Hailo-8 and its kin."""

    name = "hailo"
    package = "hailo_platform"
    devices = ("dev/hailo0",)
    form = "models that Hailo's dataflow compiler made on an x86 machine (.hef)"


class TorchCuda(_Accelerator):
    """torch on CUDA."""

    name = "torch-cuda"
    package = "torch"
    devices = ("dev/nvidia0", "dev/nvhost-gpu")
    form = "its own modules; ONNX Runtime with CUDA runs the artefact on the same hardware"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
