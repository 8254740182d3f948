"""What a worker writes to stdout and stderr: into a file of bounded size, the last of it kept for error messages."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

from argosy_common.files import PRIVATE_FILE
from argosy_common.logs import get_logger

log = get_logger(__name__)

FILE_LIMIT = 1_000_000
"""Bytes in the file before it becomes `<name>.1` and a new one begins."""
CHAPTER_LIMIT = 500_000
"""Bytes that one instruction may add to the file: an app that floods must not wear out an SD card."""
_TAIL = 8192
_WORDS = 4
_CRASH = "Fatal Python error"


class WorkerOutput:
    """Takes the bytes of one worker after another. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tail = b""
        self._left = CHAPTER_LIMIT
        self._told = False
        self._lock = threading.Lock()

    def new_worker(self) -> None:
        """Forget the last words of the worker before."""
        with self._lock:
            self._tail = b""

    def new_chapter(self) -> None:
        """Begin another instruction, with its own allowance of bytes."""
        with self._lock:
            self._left = CHAPTER_LIMIT
            self._told = False

    def add(self, data: bytes) -> None:
        """Take what was read; a disk that is full costs the log, not the run."""
        with self._lock:
            self._tail = (self._tail + data)[-_TAIL:]
            kept, self._left = data[: self._left], max(0, self._left - len(data))
            if len(kept) < len(data) and kept:
                kept += b"\n[more output of this instruction was dropped]\n"
        if kept:
            try:
                self._append(kept)
            except OSError as error:
                if not self._told:  # once an instruction: an app that floods must not flood our log either
                    log.warning("worker.log_failed", path=self.path, why=error.strerror)
                self._told = True

    def last_words(self) -> str:
        """Return what best says why the worker died, on one line: a crash report's beginning, or the last lines."""
        with self._lock:
            text = self._tail.decode("utf-8", "replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        crash = next((i for i, line in enumerate(lines) if line.startswith(_CRASH)), None)
        chosen = lines[-_WORDS:] if crash is None else lines[crash : crash + _WORDS]
        return " | ".join(line[:200] for line in chosen)

    def _append(self, data: bytes) -> None:
        with suppress(FileNotFoundError):
            if self.path.stat().st_size + len(data) > FILE_LIMIT:
                self.path.replace(self.path.with_name(f"{self.path.name}.1"))
        with self.path.open("ab") as stream:
            stream.write(data)
        self.path.chmod(PRIVATE_FILE)
