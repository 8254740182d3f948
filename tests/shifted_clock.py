"""A wall clock that jumps under running programs, whatever they are written in: ours, Mosquitto, OpenSSL."""

from __future__ import annotations

import shutil
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Self

import pytest

SOURCE = Path(__file__).with_suffix(".c")


class ShiftedClock:
    """The clock of the processes that get `environment`."""

    def __init__(self, folder: Path, library: Path) -> None:
        self._file = folder / "shift"
        self.shift(timedelta(0))
        self.environment = {"LD_PRELOAD": str(library), "SHIFTED_CLOCK": str(self._file)}

    @classmethod
    def or_skip(cls, folder: Path) -> Self:
        """Make one, or skip the test by name where there is no compiler."""
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("no C compiler, so no clock can be shifted")
        folder.mkdir()
        library = folder / "shifted_clock.so"
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"], check=True)
        return cls(folder, library)

    def shift(self, by: timedelta) -> None:
        """Let the clock be off by so much, from now on."""
        with self._file.open("r+b" if self._file.exists() else "wb") as stream:
            stream.write(int(by.total_seconds()).to_bytes(8, "little", signed=True))
