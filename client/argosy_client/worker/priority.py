"""How much of the board a training worker gets: all that it can, what nothing else wants, or nothing for now.

Acts on every thread of the worker and of what it has started; threads that they start later inherit it.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

import psutil

from argosy_common.logs import get_logger

log = get_logger(__name__)

_NICE_0 = 20
"""What RLIMIT_NICE must allow for a thread to come back from the idle class, sched(7): that of nice 0."""


class Priority(StrEnum):
    """In words that people read."""

    FULL = "full"
    LOWERED = "lowered"
    """It runs where nothing else wants the processor: Linux's idle class."""
    PAUSED = "paused"


def set_priority(pid: int, priority: Priority) -> None:
    """Give a process group, by its leader's id, a priority; one that is gone is passed over.

    Where the system would not let it come back from the idle class, `LOWERED` changes nothing.
    """
    if priority is Priority.PAUSED:
        _signal(pid, signal.SIGSTOP)
        return
    _signal(pid, signal.SIGCONT)
    if priority is Priority.LOWERED and not can_be_raised_again():
        log.debug("worker.priority_fixed")
        return
    policy = os.SCHED_IDLE if priority is Priority.LOWERED else os.SCHED_OTHER
    for thread in _threads(pid):
        with suppress(ProcessLookupError, PermissionError):  # it has just ended; or it is not ours any more
            if os.sched_getscheduler(thread) != policy:
                os.sched_setscheduler(thread, policy, os.sched_param(0))


def can_be_raised_again() -> bool:
    """Tell whether a thread of ours may leave the idle class: as root, or with `LimitNICE=` of the service unit."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NICE)
    return os.geteuid() == 0 or allowed == resource.RLIM_INFINITY or allowed >= _NICE_0


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, number)


def _threads(pid: int) -> Iterator[int]:
    with suppress(psutil.NoSuchProcess):
        leader = psutil.Process(pid)
        for process in (leader, *leader.children(recursive=True)):
            with suppress(OSError):
                yield from (int(each.name) for each in Path(f"/proc/{process.pid}/task").iterdir())
