"""Places where the coordinator may be killed, by name: a test walks through them one by one, and nothing may be lost.

`ARGOSY_CRASH_AT=NAME` or `NAME:N` has this process kill itself when it comes to that place (for the Nth time). Without
it, `reach` does nothing.
"""

from __future__ import annotations

import os
import signal

from argosy_common.errors import ProgrammingError

VARIABLE = "ARGOSY_CRASH_AT"

POINTS = (
    "run.recorded",
    "run.spawned",
    "phase.begun",
    "instructions.recorded",
    "instructions.sent",
    "instruction.accepted",
    "reply.arrived",
    "reply.recorded",
    "receipt.sent",
    "answer.forwarded",
    "checkpoint.arrived",
    "checkpoint.recorded",
    "checkpoint.freed",
    "model.added",
    "run.over",
    "run.decided",
    "run.closed",
    "run.told",
    "run.ended",
)
"""In the order in which a run comes to them."""


class _Armed:
    """What the variable asked for."""

    def __init__(self, text: str) -> None:
        self.name, _, times = text.partition(":")
        self.left = int(times or 1)
        if self.name and self.name not in POINTS:
            raise ProgrammingError(what=f"{VARIABLE}: there is no {self.name!r}")


_armed = _Armed(os.environ.get(VARIABLE, ""))


def reach(name: str) -> None:
    """Be at a place; end here, at once, if that was asked for."""
    if name != _armed.name:
        return
    _armed.left -= 1
    if _armed.left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
