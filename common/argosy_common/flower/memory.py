"""What a process that handles models does about its memory: giving it back, and measuring its peak (Linux)."""

from __future__ import annotations

import ctypes
import gc
import resource
from contextlib import suppress
from pathlib import Path

_RESET_PEAK = "5"
"""proc(5), clear_refs: reset the peak resident set size."""


def give_back_memory() -> None:
    """Collect cycles and return freed heap pages to the system, which glibc keeps otherwise."""
    gc.collect()
    with suppress(OSError, AttributeError):  # musl has no malloc_trim and needs none
        ctypes.CDLL(None).malloc_trim(0)


def reset_peak_rss() -> None:
    """Start a new measurement for `peak_rss`; without effect where the kernel does not offer it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK, encoding="ascii")


def peak_rss() -> int:
    """Return the most bytes that were resident since `reset_peak_rss`, or since the start of the process."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
