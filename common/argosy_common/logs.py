"""Structured logs: an event name and fields, never a sentence with values in it, never a secret.

Under systemd the fields become journald fields, where its Python module is installed, and otherwise plain lines that
carry their priority; on a terminal or in a file they are one readable line. Use:

    log = get_logger(__name__)
    log.info("link.connected", broker=address, seconds=0.2)
"""

from __future__ import annotations

import logging
import os
import sys
from typing import ClassVar, TextIO

_FIELDS = "argosy_fields"
_SECRET_WORDS = ("secret", "token", "password", "private")


class EventLogger:
    """A logger of events. `exc` adds the traceback of an exception that was caught."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **fields: object) -> None:
        """Log what only a developer wants to see."""
        self._emit(logging.DEBUG, event, None, fields)

    def info(self, event: str, **fields: object) -> None:
        """Log a normal change of state."""
        self._emit(logging.INFO, event, None, fields)

    def warning(self, event: str, exc: BaseException | None = None, **fields: object) -> None:
        """Log something off that the program copes with by itself."""
        self._emit(logging.WARNING, event, exc, fields)

    def error(self, event: str, exc: BaseException | None = None, **fields: object) -> None:
        """Log a failure that a person should look at."""
        self._emit(logging.ERROR, event, exc, fields)

    def _emit(self, level: int, event: str, exc: BaseException | None, fields: dict[str, object]) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, event, exc_info=exc, extra={_FIELDS: _redacted(fields)})


def get_logger(name: str) -> EventLogger:
    """Return the event logger of a module; pass `__name__`."""
    return EventLogger(name)


def _redacted(fields: dict[str, object]) -> dict[str, object]:
    """Blank every field whose name says that it holds a secret."""
    return {k: "…" if any(word in k for word in _SECRET_WORDS) else v for k, v in fields.items()}


class ReadableFormatter(logging.Formatter):
    """`12:30:01 INFO  link.connected broker=… seconds=0.2`, with colour when asked for."""

    _COLOURS: ClassVar = {logging.WARNING: "\x1b[33m", logging.ERROR: "\x1b[31m"}

    def __init__(self, *, colour: bool) -> None:
        super().__init__(datefmt="%H:%M:%S")
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        line = f"{self.formatTime(record, self.datefmt)} {record.levelname:<7} {_told(record, self)}"
        colour = self._COLOURS.get(record.levelno, "") if self._colour else ""
        return f"{colour}{line}\x1b[0m" if colour else line


class JournalFormatter(logging.Formatter):
    """Lines for the journal's stream: the priority in front, as sd-daemon(3) says; the journal adds the time."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        return "\n".join(f"<{_priority(record)}>{line}" for line in _told(record, self).splitlines())


def _told(record: logging.LogRecord, formatter: logging.Formatter) -> str:
    """Return the event with its fields, and the traceback if there is one."""
    fields: dict[str, object] = getattr(record, _FIELDS, {})
    line = " ".join([record.getMessage(), *(f"{name}={_readable(value)}" for name, value in fields.items())])
    return f"{line}\n{formatter.formatException(record.exc_info)}" if record.exc_info else line


def _priority(record: logging.LogRecord) -> int:
    """Return syslog's number for a level."""
    return {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6}.get(record.levelno, 7)


def _readable(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return repr(text) if not text or any(c.isspace() or c == "=" for c in text) else text


def _is_the_journal(stream: TextIO) -> bool:
    """Tell whether systemd connected `stream` to its journal: it names the socket, which a child may not have got."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _journal_handler(stream: TextIO) -> logging.Handler:
    """Return a handler that writes journald fields, or lines where systemd's Python module is missing."""
    try:
        from systemd import journal  # noqa: PLC0415  (not every box has it)
    except ImportError:
        handler: logging.Handler = logging.StreamHandler(stream)
        handler.setFormatter(JournalFormatter())
        return handler

    class _Journal(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            fields: dict[str, object] = getattr(record, _FIELDS, {})
            extra = {f"ARGOSY_{name.upper()}": str(value) for name, value in fields.items()}
            text = _told(record, logging.Formatter())
            journal.send(
                text, PRIORITY=_priority(record), ARGOSY_EVENT=record.getMessage(), LOGGER=record.name, **extra
            )

    return _Journal()


def configure(level: str = "INFO", *, stream: TextIO | None = None) -> None:
    """Send all logs of this process to journald under systemd, else as readable lines to `stream` (stderr)."""
    target = stream or sys.stderr
    if _is_the_journal(target):
        handler = _journal_handler(target)
    else:
        handler = logging.StreamHandler(target)
        handler.setFormatter(ReadableFormatter(colour=target.isatty()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("alembic").setLevel(logging.WARNING)
