"""Becomes another program that dies with its parent: `python -I tether.py PARENT_PID PROGRAM [ARGUMENT]...`.

Runs as a script of its own, before any of Argosy is imported. The kernel sends the signal when the *thread* that
started us ends, so `child.Child` starts us from a thread that lives as long as the child may.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Ask for the signal, then replace this process."""
    parent, program = int(sys.argv[1]), sys.argv[2]
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0):
        sys.exit(f"tether: prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it died before we asked
        sys.exit("tether: the parent is gone")
    os.execv(program, sys.argv[2:])  # noqa: S606  (that is what this program is for; the caller names a fixed one)


if __name__ == "__main__":
    main()
