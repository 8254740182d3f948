"""Waiting in tests: always bounded, always polling. And what is waited for most: links and brokers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from argosy_common.link import Link
from argosy_server.broker import Broker

PATIENCE_S = 20.0


def until(condition: Callable[[], object], *, patience_s: float = PATIENCE_S) -> bool:
    """Poll until `condition()` is true; return whether it became so within `patience_s`."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return bool(condition())


def up(link: Link) -> Link:
    """Start `link` and wait until it is connected."""
    link.start()
    assert link.wait_connected(PATIENCE_S), link.last_error
    return link


def kill(broker: Broker) -> None:
    """Kill the broker's process without warning, and wait until another has taken its place."""
    pid = broker.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert until(lambda: broker.pid not in (None, pid) and broker.alive())
