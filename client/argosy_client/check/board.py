"""Judging the board itself: the kernel's limits, accelerators, and software that its processor cannot run."""

from __future__ import annotations

import re
from collections.abc import Iterator

from argosy_client.check.finding import Finding, Problem, Severity, good
from argosy_client.check.readings import Readings

MEMORY_UNLIMITED = Problem(
    "memory-cgroup-off",
    Severity.HINT,
    "The kernel's memory cgroup is off: systemd's MemoryMax= is not enforced.",
    "On a Raspberry Pi, add `cgroup_enable=memory` to the line in /boot/firmware/cmdline.txt and reboot; "
    "`worker.memory_mb` in the device's settings works without it.",
)
ACCELERATOR_CLOSED = Problem(
    "accelerator-closed",
    Severity.WARNING,
    "There is an accelerator that this user may not open: {nodes}.",
    "Add the daemon's user to the group of the device node (`ls -l` shows it; mostly video or render), and allow it in "
    "the systemd unit (SupplementaryGroups=, DeviceAllow=).",
)
TORCH_WITHOUT_GPU = Problem(
    "torch-without-gpu",
    Severity.HINT,
    "torch {torch} computes on the processor only, and this board has a GPU of NVIDIA's.",
    "Install a build of torch for it. On a Jetson that is NVIDIA's own wheel, made for the Python of its JetPack: "
    "JetPack 6 has Python 3.10, and Argosy needs 3.11 or newer.",
)
MACHINE_UNSUPPORTED = Problem(
    "machine-unsupported",
    Severity.ERROR,
    "This Python is of {bits} bits on {machine}: numpy, torch and others have no packages for it.",
    "Install a 64-bit system (aarch64, x86_64).",
)
TORCH_ILLEGAL = Problem(
    "torch-illegal-instruction",
    Severity.ERROR,
    "torch {torch} dies of an illegal instruction (SIGILL) on this processor, {cpu}.",
    "pip install 'torch==2.9.1'",
)

MEMORY = (MEMORY_UNLIMITED,)
ACCELERATORS = (ACCELERATOR_CLOSED, TORCH_WITHOUT_GPU)
SOFTWARE = (MACHINE_UNSUPPORTED, TORCH_ILLEGAL)

_TOO_NEW_FOR_A72 = (2, 10)
_MACHINES = re.compile(r"aarch64|arm64|x86_64|amd64", re.IGNORECASE)


def memory(readings: Readings) -> Iterator[Finding]:
    """Can the kernel limit a service's memory?"""
    if readings.memory_cgroup is False:
        yield MEMORY_UNLIMITED.found()
    elif readings.memory_cgroup:
        yield good("the kernel can limit the memory of services")


def accelerators(readings: Readings) -> Iterator[Finding]:
    """Can what computes fast be used?"""
    inventory = readings.inventory
    if readings.unusable:
        yield ACCELERATOR_CLOSED.found(nodes=", ".join(readings.unusable))
    if inventory.torch and _has_gpu_of_nvidia(readings) and _for_processor_only(inventory.torch, jetson=inventory.l4t):
        yield TORCH_WITHOUT_GPU.found(torch=inventory.torch)
    elif inventory.accelerators and not readings.unusable:
        yield good(", ".join(map(str, inventory.accelerators)))


def software(readings: Readings) -> Iterator[Finding]:
    """Do Python and torch fit the processor?"""
    inventory = readings.inventory
    if readings.bits < 64 or not _MACHINES.fullmatch(inventory.machine):
        yield MACHINE_UNSUPPORTED.found(bits=readings.bits, machine=inventory.machine)
    elif inventory.cpu == "Cortex-A72" and _version(inventory.torch) >= _TOO_NEW_FOR_A72:
        yield TORCH_ILLEGAL.found(torch=inventory.torch, cpu=inventory.cpu)
    else:
        torch = f"torch {inventory.torch}" if inventory.torch else "no torch"
        yield good(f"Python {inventory.python}, {torch}, {inventory.machine}")


def _has_gpu_of_nvidia(readings: Readings) -> bool:
    return any(one.kind in {"nvidia", "jetson"} for one in readings.inventory.accelerators)


def _for_processor_only(torch: str, *, jetson: str) -> bool:
    """Tell by its version: `2.9.1+cpu`. NVIDIA's for Jetsons have `nv` in theirs; PyPI's for ARM know no GPU."""
    _, _, build = torch.partition("+")
    return build == "cpu" or (bool(jetson) and "nv" not in build and not build.startswith("cu"))


def _version(text: str) -> tuple[int, int]:
    numbers = re.match(r"(\d{1,6})\.(\d{1,6})", text)
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
