"""An archive for whoever is to find a fault: what was running, how it was set, what it said. Never a secret.

Every part goes through `redaction`, and is bounded. A part that cannot be had says why in its place: a report is made
where something is broken.
"""

from __future__ import annotations

import io
import json
import os
import platform
import stat
import subprocess
import tarfile
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from importlib import metadata
from pathlib import Path

from argosy_common import __version__
from argosy_common.blobs.store import storage_errors
from argosy_common.errors import StorageFailed
from argosy_common.files import write_atomic
from argosy_common.redaction import redact, redact_data

MAX_PART = 512 * 1024
"""Characters of a part; of a longer one its end is kept."""
MAX_FILES = 5000
"""Files that a listing names."""
_JOURNAL_S = 20
PACKAGES = (
    *("argosy", "flwr", "numpy", "torch", "cryptography", "paho-mqtt", "pydantic", "sqlalchemy", "psycopg", "fastapi"),
    *("uvicorn", "onnxruntime", "iotcore", "msgpack"),
)

README = """A bug report of Argosy, made by `{command}`.

Keys, tokens and passwords were taken out, as far as they can be recognised: see redaction.py. Names of devices,
addresses and what apps wrote into their logs are in it. Look through it before you hand it on.
"""


class Report:
    """Parts by name, as text."""

    def __init__(self, command: str) -> None:
        self._parts: dict[str, str] = {"README": README.format(command=command)}

    def add(self, name: str, make: Callable[[], object]) -> None:
        """Add what `make` returns: a text as it is, other things as JSON; or why it could not be made."""
        try:
            made = make()
        except Exception as error:  # noqa: BLE001  (it is told in its place, and the other parts are wanted)
            made = f"This could not be had: {type(error).__name__}: {error}"
        text = redact(made) if isinstance(made, str) else json.dumps(redact_data(made), indent=1, default=str)
        self._parts[name] = text[-MAX_PART:]

    def add_end(self, name: str, file: Path) -> None:
        """Add the end of a log; nothing where there is none."""
        if file.exists():
            self.add(name, lambda: end_of(file))

    def write(self, target: Path, now: datetime) -> None:
        """Write the archive, which only its owner may read; it is whole or absent afterwards.

        Raises:
            StorageFailed: `target` is there already, or cannot be written.
            DiskFull: as it says.
        """
        if target.exists():
            raise StorageFailed(path=target, why="it is there already")
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            for name, text in self._parts.items():
                data = text.encode("utf-8", "replace")
                info = tarfile.TarInfo(f"argosy-bugreport/{name}")
                info.size, info.mode, info.mtime = len(data), 0o600, int(now.timestamp())
                tar.addfile(info, io.BytesIO(data))
        with storage_errors(target, packed.tell()):
            write_atomic(target, packed.getvalue())


def report_name(now: datetime) -> str:
    """Return the name of a report's file where only a folder was given."""
    return f"argosy-bugreport-{now:%Y%m%dT%H%M%SZ}.tar.gz"


def versions() -> dict[str, object]:
    """Return what runs here."""
    found: dict[str, object] = {
        "argosy": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
    }
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[f"package {package}"] = metadata.version(package)
    return found


def end_of(file: Path) -> str:
    """Return the end of a text file."""
    with file.open("rb") as stream:
        stream.seek(0, os.SEEK_END)
        stream.seek(max(0, stream.tell() - MAX_PART))
        return stream.read(MAX_PART).decode("utf-8", "replace")


def files_below(folder: Path) -> str:
    """List the files of a folder with their modes, owners and sizes, and nothing of what is in them."""
    lines = []
    for path in sorted(folder.rglob("*"))[:MAX_FILES]:
        with suppress(FileNotFoundError):  # it went meanwhile
            status = path.lstat()
            mode, size = stat.filemode(status.st_mode), status.st_size
            lines.append(f"{mode} {status.st_uid}:{status.st_gid} {size:>12} {path.relative_to(folder)}")
    return "\n".join(lines)


def journal_of(unit: str) -> str:
    """Return the end of what a systemd unit logged."""
    command = ["journalctl", "--unit", unit, "--lines", "3000", "--no-pager", "--output", "short-iso"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_JOURNAL_S, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        return f"no journal here: {error}"
    return done.stdout or done.stderr
