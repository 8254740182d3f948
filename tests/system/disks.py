"""Small disks: a file system of its own for a daemon's state."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest

MB = 1_000_000
DISK = 64 * MB


class CannotMount(Exception):
    """Not as this user, or not in this container."""


class SmallDisk:
    """A file system of its own, of DISK bytes, at `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=700", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CannotMount(done.stderr.strip())

    @classmethod
    def or_skip(cls, folder: Path) -> Self:
        """Mount one, or skip the test."""
        try:
            return cls(folder)
        except CannotMount as error:
            pytest.skip(f"a small file system cannot be mounted here: {error}")

    @classmethod
    def mounted(cls, folder: Path) -> Self | None:
        """Mount one, if that can be done here."""
        try:
            return cls(folder)
        except CannotMount:
            return None

    @contextmanager
    def room(self, left: int) -> Iterator[None]:
        """Fill it up but for `left` bytes."""
        ballast = self.folder / "ballast"
        with ballast.open("wb", buffering=0) as stream, contextlib.suppress(OSError):  # a daemon took the last page
            while (free := shutil.disk_usage(self.folder).free - left) > 0:
                stream.write(bytes(min(free, MB)))
        try:
            yield
        finally:
            ballast.unlink()

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Let nothing be written, as Linux does after an error of a disk. No file may be open for writing."""
        self._remount("ro")
        try:
            yield
        finally:
            self._remount("rw")

    def _remount(self, how: str) -> None:
        command = ["mount", "-o", f"remount,{how}", str(self.folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def unmount(self) -> None:
        """Take it away, also from under files that are still open."""
        command = ["umount", "--lazy", str(self.folder)]
        subprocess.run(command, check=True)
