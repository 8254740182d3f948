"""What this board is: model, memory, accelerators, power sensors, and the software that apps will meet.

Read from /proc, /sys, /dev and /etc under an injectable root, for tests. What cannot be read, or makes no sense, is
left out; nothing here raises. A serial number is a label for people: the identity key is what names a device. A
machine's id is secret by its own manual, so only a digest of it leaves the board.
"""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from argosy_common import __version__
from argosy_common.enrolment import Fact

LONGEST = 256
"""Characters of a fact; the wire takes no more."""
_MOST = 64 * 1024
"""Bytes that are read of a file: nothing here is longer, unless it is not what it should be."""
_KIB = 1024
_TREE = "proc/device-tree"
_DMI = "sys/class/dmi/id"

_CORES = {
    "0xd03": "Cortex-A53",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd0b": "Cortex-A76",
}
_CORES |= {"0xd0c": "Neoverse-N1", "0xd40": "Neoverse-V1", "0xd42": "Cortex-A78AE"}
"""Arm's own part numbers, as /proc/cpuinfo has them; other makers' are not listed."""

_NODES = (
    ("nvidia", "nvidia0"),
    ("jetson", "nvhost-gpu"),
    ("jetson", "nvmap"),
    ("coral", "apex_0"),
    ("hailo", "hailo0"),
    ("gpu", "dri/renderD*"),
)
"""Accelerators and the device nodes that show them; of several nodes of one accelerator, the first."""
_CORAL_USB = {("1a6e", "089a"), ("18d1", "9302")}
"""Before and after its firmware is loaded."""

_SENSORS = (
    ("ina3221", "sys/bus/i2c/drivers/ina3221", "*/hwmon/hwmon*/in*_input"),
    ("rapl", "sys/class/powercap", "intel-rapl:*/energy_uj"),
)
_PI_5 = "brcm,bcm2712"
_PLACEHOLDERS = re.compile(
    r"to be filled|default string|system (product|manufacturer)|not specified|^0*$", re.IGNORECASE
)


@dataclass(frozen=True)
class Accelerator:
    """One accelerator: its kind, and the device node that a program opens (none for a stick on USB)."""

    kind: str
    node: str = ""

    def __str__(self) -> str:
        """Return it for people: `hailo (/dev/hailo0)`."""
        return f"{self.kind} ({self.node})" if self.node else self.kind


@dataclass(frozen=True)
class Inventory:
    """What is known of a board; an empty text, 0 or an empty tuple is something that could not be read."""

    machine: str
    python: str
    version: str
    model: str = ""
    serial: str = ""
    cpu: str = ""
    cores: int = 0
    memory: int = 0
    """Bytes."""
    os: str = ""
    kernel: str = ""
    l4t: str = ""
    """NVIDIA's release for Jetsons; there is one on no other board."""
    torch: str = ""
    """The version of PyTorch that is installed here."""
    accelerators: tuple[Accelerator, ...] = ()
    power: tuple[str, ...] = ()
    """Sensors that measure what the board draws."""

    def facts(self) -> dict[str, Fact]:
        """Return what is known as flat facts, the form in which it travels and is kept."""
        told = {
            **{name: value for name, value in vars(self).items() if isinstance(value, str | int)},
            "accelerators": ", ".join(map(str, self.accelerators)),
            "power": ", ".join(self.power),
        }
        return {name: value[:LONGEST] if isinstance(value, str) else value for name, value in told.items() if value}


def installed_version(package: str) -> str:
    """Return the version of a package that is installed here, without importing it; empty where it is not."""
    try:
        return metadata.version(package) or ""
    except (metadata.PackageNotFoundError, OSError, ValueError, KeyError, TypeError):  # the last three: broken metadata
        return ""


def take_inventory(root: Path = Path("/"), *, installed: Callable[[str], str] = installed_version) -> Inventory:
    """Look around on the board under `root`."""
    board = _Board(root)
    return Inventory(
        machine=platform.machine(),
        python=platform.python_version(),
        version=__version__,
        model=board.model(),
        serial=board.serial(),
        cpu=board.cpu(),
        cores=len(re.findall(r"^processor\s*:", board.cpuinfo, re.MULTILINE)),
        memory=board.memory(),
        os=board.first(r'^PRETTY_NAME="?([^"\n]+)', board.text("etc/os-release", lines=True)),
        kernel=board.text("proc/sys/kernel/osrelease"),
        l4t=board.l4t(),
        torch=installed("torch"),
        accelerators=tuple(board.accelerators()),
        power=tuple(board.sensors()),
    )


def serial_number(root: Path = Path("/")) -> str:
    """Return what tells the board under `root` from others of its model, without looking at all the rest of it."""
    return _Board(root).serial()


class _Board:
    """The files of a board."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.cpuinfo = self.text("proc/cpuinfo", lines=True)
        self.compatible = self._bytes(f"{_TREE}/compatible").decode("utf-8", "replace").split("\0")

    def text(self, path: str, *, lines: bool = False) -> str:
        """Return a file's text without NUL and what else cannot be printed; in one line unless `lines`."""
        text = self._bytes(path).decode("utf-8", "replace").strip("\0 \n")
        return "".join(char for char in text if char.isprintable() or (lines and char in "\n\t"))

    def _bytes(self, path: str) -> bytes:
        try:
            with (self._root / path).open("rb") as stream:
                return stream.read(_MOST)
        except OSError:
            return b""

    def _found(self, folder: str, pattern: str) -> list[Path]:
        try:
            return sorted((self._root / folder).glob(pattern))
        except OSError:
            return []

    @staticmethod
    def first(pattern: str, text: str) -> str:
        """Return the first group of the first match, or nothing."""
        match = re.search(pattern, text, re.MULTILINE)
        return match[1].strip() if match else ""

    def model(self) -> str:
        """Name the board: its device tree's model, /proc/cpuinfo's, or its maker's words in the firmware."""
        told = self.text(f"{_TREE}/model") or self.first(r"^Model\s*: (.+)", self.cpuinfo)
        words = [self.text(f"{_DMI}/{name}") for name in ("sys_vendor", "product_name")]
        return told or " ".join(word for word in words if word and not _PLACEHOLDERS.search(word))

    def serial(self) -> str:
        """Return what tells this board from others of its model."""
        printed = self.text(f"{_TREE}/serial-number") or self.first(r"^Serial\s*: (\w+)", self.cpuinfo)
        if printed.strip("0"):
            return printed
        for file in ("etc/machine-id", f"{_DMI}/product_uuid"):
            if (known := self.text(file)) and known != "uninitialized":
                return f"machine-{hashlib.sha256(f'argosy/machine/{known}'.encode()).hexdigest()[:16]}"
        return ""

    def cpu(self) -> str:
        """Name the processor. A board with cores of several kinds is named after its first, mostly the weakest."""
        part = self.first(r"^CPU part\s*: (0x[0-9a-f]+)", self.cpuinfo)
        arm = self.first(r"^CPU implementer\s*: (0x[0-9a-f]+)", self.cpuinfo) == "0x41"
        return (_CORES.get(part, "") if arm else "") or self.first(r"^model name\s*: (.+)", self.cpuinfo)

    def memory(self) -> int:
        """Return the bytes of RAM."""
        digits = self.first(r"^MemTotal:\s+(\d{1,15}) kB$", self.text("proc/meminfo", lines=True))
        return int(digits or 0) * _KIB

    def l4t(self) -> str:
        """Return a Jetson's release, `36.3.0`; `unknown` where it is a Jetson that does not say."""
        line = self.text("etc/nv_tegra_release")
        major, minor = self.first(r"# R(\d+) ", line), self.first(r"REVISION: ([\d.]+)", line)
        if major:
            return f"{major}.{minor}" if minor else major
        return "unknown" if any(name.startswith("nvidia,tegra") for name in self.compatible) else ""

    def accelerators(self) -> Iterator[Accelerator]:
        """Find what can compute faster than the processor."""
        seen: set[str] = set()
        for kind, pattern in _NODES:
            for path in self._found("dev", pattern)[: 0 if kind in seen else 1]:
                seen.add(kind)
                yield Accelerator(kind, f"/{path.relative_to(self._root)}")
        for path in self._found("sys/bus/usb/devices", "*/idVendor"):
            device = path.parent.relative_to(self._root)
            if (self.text(f"{device}/idVendor"), self.text(f"{device}/idProduct")) in _CORAL_USB:
                yield Accelerator("coral-usb")

    def sensors(self) -> Iterator[str]:
        """Find what measures the board's power."""
        yield from (name for name, folder, pattern in _SENSORS if self._found(folder, pattern))
        if _PI_5 in self.compatible:
            yield "pi5-pmic"
