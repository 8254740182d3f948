"""The main thread of a daemon: it obeys signals, and tells the service manager how the daemon is.

SIGTERM and SIGINT end it, SIGHUP has the settings read again. While the service manager watches, the daemon is examined
a few times in each of its periods, and the watchdog hears of it only when nothing is wrong: so a daemon that hangs is
killed and started again, and so is one whose examination itself hangs.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Self

from argosy_common import logs
from argosy_common.clock import Clock
from argosy_common.errors import ArgosyError
from argosy_common.logs import get_logger
from argosy_common.notify import Notifier
from argosy_common.settings import Settings, changed

log = get_logger(__name__)

_STOP = (signal.SIGTERM, signal.SIGINT)
_LOOKS_A_PERIOD = 4
"""One examination may fail by bad luck; so many in a row do not."""
LIVE = ("log_level",)
"""The settings that hold at once after a reload; all others wait for the next start."""


@dataclass(frozen=True)
class Condition:
    """How a daemon is.

    Attributes:
        wrong: what must not be, and only a new start mends; empty if nothing.
        status: one line on what it is at, for people.
    """

    wrong: str
    status: str


class Progress:
    """Proof that a thread goes on: it calls `beat` each time it comes round."""

    def __init__(self, name: str, *, clock: Clock) -> None:
        self._name = name
        self._clock = clock
        self.beat()

    def beat(self) -> None:
        """Come round."""
        self._at = self._clock.monotonic()

    def trouble(self, patience_s: float) -> str:
        """Say that the thread hangs, if it has for longer than `patience_s` seconds; else nothing."""
        silent = self._clock.monotonic() - self._at
        return f"{self._name} has been hanging for {silent:.0f} s" if silent > patience_s else ""


class Signals:
    """The signals that a daemon obeys, in the order of their coming. Made and asked by the main thread, once a process.

    A handler that took a lock could find it held by the very thread that it interrupts. So the handlers do nothing, and
    the interpreter writes each signal's number into a pipe.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in (*_STOP, signal.SIGHUP):
            signal.signal(number, _ignored)

    def next(self, timeout_s: float | None) -> int | None:
        """Return the next signal; None after `timeout_s` seconds without one. None waits for ever."""
        ready, _, _ = select.select([self._read], [], [], timeout_s)
        return os.read(self._read, 1)[0] if ready else None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Forget what was not asked for; what comes from now on is passed over, since the daemon is ending."""
        signal.set_wakeup_fd(-1)
        os.close(self._read)
        os.close(self._write)


def _ignored(_number: int, _frame: FrameType | None) -> None:
    """Be there, so that the signal interrupts nothing and reaches the pipe."""


def serve(
    signals: Signals,
    notifier: Notifier,
    *,
    examine: Callable[[], Condition],
    reload: Callable[[], None],
) -> None:
    """Say that the daemon serves, and return when it shall end. `reload` and `examine` may raise what they like."""
    notifier.status(_examined(examine).status)
    notifier.ready()
    pause = notifier.watchdog_s / _LOOKS_A_PERIOD if notifier.watchdog_s else None
    wrong = ""
    while (number := signals.next(pause)) not in _STOP:
        if number == signal.SIGHUP:
            notifier.reloading()
            _reloaded(reload)
            notifier.ready()
        condition = _examined(examine)
        if condition.wrong and condition.wrong != wrong:
            log.error("service.unwell", why=condition.wrong, watched=pause is not None)
        wrong = condition.wrong
        notifier.status(wrong or condition.status)
        if not wrong:
            notifier.alive()
    notifier.stopping()


def _examined(examine: Callable[[], Condition]) -> Condition:
    try:
        return examine()
    except ArgosyError as error:
        return Condition(wrong=error.message, status="")
    except Exception as error:  # noqa: BLE001  (a daemon that cannot be examined is not well, and must say so)
        log.error("service.examination_failed", exc=error)
        return Condition(wrong=f"the examination failed: {error}", status="")


def _reloaded(reload: Callable[[], None]) -> None:
    try:
        reload()
    except ArgosyError as error:
        log.error("service.not_reloaded", code=error.code, why=error.message, remedy=error.remedy_text)
    except Exception as error:  # noqa: BLE001  (what was good enough to start with still holds)
        log.error("service.not_reloaded", exc=error)


def reread(now: Settings, read: Callable[[], Settings]) -> None:
    """Read the settings again, put in force what can be, and say what waits for a restart.

    `now` are those of the start. Raises `SettingsInvalid`, with nothing changed.
    """
    fresh = read()
    names = changed(now, fresh)
    logs.configure(str(getattr(fresh, "log_level", "info")))
    log.info("service.reloaded", changed=", ".join(names) or "nothing")
    waiting = [name for name in names if name not in LIVE]
    if waiting:
        log.warning("service.restart_needed", settings=", ".join(waiting))
