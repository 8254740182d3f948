"""A Flower app's directory: what it says of itself, and the zip in which it travels to devices.

Packing is deterministic: the same files give the same bytes, so the bundle's digest names the app. Unpacking trusts
nothing: paths, kinds and sizes are checked before and while anything is written. No Flower here; daemons import this.
"""

from __future__ import annotations

import errno
import io
import math
import os
import re
import secrets
import shutil
import stat
import tomllib
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from argosy_common.errors import AppBundleInvalid, AppDirectoryInvalid, DiskFull, RunConfigInvalid, StorageFailed
from argosy_common.files import PRIVATE_FILE, private_folder, sync_folder

Scalar = bool | int | float | str

MAX_BUNDLE = 10 * 1024 * 1024
"""Bytes of the zip, as Flower's own limit."""
MAX_UNPACKED = 50 * 1024 * 1024
MAX_FILES = 2000
MAX_PATH = 512
MAX_NAME = 200
"""Bytes of one part of a path; file systems allow 255."""

_COMPONENT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*\Z")
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The first moment that a zip can name."""
_STEP = 1024 * 1024
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, NotImplementedError, KeyError)


@dataclass(frozen=True)
class AppManifest:
    """What an app's `pyproject.toml` says.

    Attributes:
        name, version: of the project.
        server_app, client_app: `module:attribute`.
        config: [tool.flwr.app.config] flattened: `optimizer.lr`.
        argosy: [tool.argosy] as it stands.
    """

    name: str
    version: str
    server_app: str
    client_app: str
    config: dict[str, Scalar] = field(default_factory=dict)
    argosy: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: Path) -> AppManifest:
        """Return the manifest of the app in `directory`.

        Raises:
            AppDirectoryInvalid: it is not a Flower app, and why.
        """
        document = _document(directory)
        project = _table(directory, document, "project")
        app = _table(directory, document, "tool", "flwr", "app")
        components = _table(directory, app, "components")
        return cls(
            name=str(project.get("name", directory.resolve().name)),
            version=str(project.get("version", "0")),
            server_app=_component(directory, components, "serverapp"),
            client_app=_component(directory, components, "clientapp"),
            config=dict(_flattened(directory, _table(directory, app, "config"))),
            argosy=_table(directory, document, "tool", "argosy"),
        )


def _document(directory: Path) -> dict[str, Any]:
    path = directory / "pyproject.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AppDirectoryInvalid(path=directory, why="it has no pyproject.toml") from None
    except OSError as error:
        raise AppDirectoryInvalid(path=directory, why=f"pyproject.toml: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AppDirectoryInvalid(path=directory, why=f"pyproject.toml: {error}") from error


def _table(directory: Path, document: Mapping[str, Any], *names: str) -> dict[str, Any]:
    found: Any = document
    for name in names:
        found = found.get(name, {})
        if not isinstance(found, dict):
            raise AppDirectoryInvalid(path=directory, why=f"{'.'.join(names)} in pyproject.toml is not a table")
    table: dict[str, Any] = found
    return table


def _component(directory: Path, components: Mapping[str, Any], name: str) -> str:
    value = components.get(name)
    if value is None:
        raise AppDirectoryInvalid(path=directory, why=f"[tool.flwr.app.components] has no {name}")
    if not (isinstance(value, str) and _COMPONENT.match(value)):
        raise AppDirectoryInvalid(path=directory, why=f'{name} is {value!r}, not "module:attribute"')
    return value


def _flattened(directory: Path, table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Scalar]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flattened(directory, value, f"{prefix}{name}.")
        elif isinstance(value, bool | int | float | str):
            yield prefix + name, value
        else:
            kinds = "a number, a text or true or false"
            raise AppDirectoryInvalid(path=directory, why=f"the configuration {prefix}{name} is not {kinds}")


# --- packing --------------------------------------------------------------------------------------------------------


def pack(directory: Path) -> bytes:
    """Return the app in `directory` as a zip: all but hidden files, caches, compiled files and virtual environments.

    Raises:
        AppDirectoryInvalid: not an app, too large (it names the largest files), or with links in it.
    """
    AppManifest.read(directory)
    files = sorted(_files(directory, directory))
    total = sum(size for _, size in files)
    if len(files) > MAX_FILES or total > MAX_UNPACKED:
        raise AppDirectoryInvalid(path=directory, why=_too_large(files))
    buffer = io.BytesIO()
    try:
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as bundle:
            for name, _ in files:
                bundle.writestr(_entry(name), (directory / name).read_bytes())
    except (OSError, ValueError) as error:
        raise AppDirectoryInvalid(path=directory, why=f"a file cannot be read: {error}") from error
    if buffer.tell() > MAX_BUNDLE:
        raise AppDirectoryInvalid(path=directory, why=_too_large(files))
    return buffer.getvalue()


def _files(root: Path, folder: Path) -> Iterator[tuple[str, int]]:
    """Yield the path relative to `root`, with slashes, and the size of each file that belongs to the app."""
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise AppDirectoryInvalid(path=root, why=f"{folder} cannot be read: {error.strerror}") from error
    for entry in entries:
        path = Path(entry.path)
        if entry.name.startswith(".") or entry.name == "__pycache__" or path.suffix == ".pyc":
            continue
        if entry.is_symlink():
            raise AppDirectoryInvalid(
                path=root, why=f"{path.relative_to(root)} is a link; a device could not follow it"
            )
        if entry.is_dir():
            if not (path / "pyvenv.cfg").exists():
                yield from _files(root, path)
        elif entry.is_file():
            yield path.relative_to(root).as_posix(), entry.stat().st_size


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, date_time=_EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.create_system = 3  # Unix, wherever it is packed
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    return entry


def _too_large(files: list[tuple[str, int]]) -> str:
    largest = sorted(files, key=lambda file: -file[1])[:3]
    named = ", ".join(f"{name} ({size / 1e6:.1f} MB)" for name, size in largest)
    limits = f"{MAX_BUNDLE // 2**20} MiB zipped, {MAX_UNPACKED // 2**20} MiB unzipped and {MAX_FILES} files"
    return f"it is larger than {limits}; the largest files are {named}. Data belongs on the devices"


# --- unpacking ------------------------------------------------------------------------------------------------------


def unpack(bundle: Path, target: Path) -> None:
    """Unpack the zip at `bundle` as the new folder `target`, whole or not at all; free when `target` is there.

    Raises:
        AppBundleInvalid: not a zip of ours, or one that would write outside or too much.
        DiskFull, StorageFailed: it could not be written.
    """
    if target.is_dir():
        return
    beside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        private_folder(beside)
        _extract(bundle, beside)
        for folder, _, _ in os.walk(beside):
            sync_folder(Path(folder))
        beside.rename(target)
        sync_folder(target.parent)
    except OSError as error:
        if target.is_dir():
            return  # another unpacked the same in the meantime
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(path=target, needed=MAX_UNPACKED) from error
        raise StorageFailed(path=target, why=error.strerror or str(error)) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _extract(bundle: Path, folder: Path) -> None:
    name = bundle.name[:12]
    try:
        with bundle.open("rb") as stream, zipfile.ZipFile(stream) as archive:
            left = MAX_UNPACKED
            for entry in _checked(archive.infolist()):
                path = folder / entry.filename
                private_folder(path.parent)
                left -= _copy(archive, entry, path, left)
    except _ZIP_ERRORS as error:
        raise AppBundleInvalid(digest=name, why=str(error) or type(error).__name__) from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise AppBundleInvalid(digest=name, why="one name for a file and a folder") from error


def _checked(entries: list[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    """Return the entries that are files. Raises `ValueError` for what a bundle of ours never holds."""
    if len(entries) > MAX_FILES:
        raise ValueError(f"{len(entries)} files; at most {MAX_FILES}")
    if sum(entry.file_size for entry in entries) > MAX_UNPACKED:
        raise ValueError(f"more than {MAX_UNPACKED} bytes unpacked")
    seen: set[str] = set()
    for entry in entries:
        name = entry.filename
        parts = name.split("/")
        if not name or len(name) > MAX_PATH or any(part in ("", ".", "..") for part in parts):
            raise ValueError(f"the path {name[:80]!r}")
        if max(len(part.encode()) for part in parts) > MAX_NAME:
            raise ValueError(f"the path {name[:80]!r}")
        if "\\" in name or "\0" in name or ":" in name or PurePosixPath(name).is_absolute():
            raise ValueError(f"the path {name[:80]!r}")
        if not stat.S_ISREG(entry.external_attr >> 16) or entry.flag_bits & 1:
            raise ValueError(f"{name[:80]!r} is not a plain file")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{name[:80]!r} is compressed in an unusual way")
        if name in seen:
            raise ValueError(f"{name[:80]!r} twice")
        seen.add(name)
    return entries


def _copy(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path, limit: int) -> int:
    """Extract one file and return its size; what the entry claims of its size is not relied on."""
    size = 0
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
    with os.fdopen(handle, "wb") as target, archive.open(entry) as source:
        while data := source.read(_STEP):
            size += len(data)
            if size > limit:
                raise ValueError(f"more than {MAX_UNPACKED} bytes unpacked")
            target.write(data)
        target.flush()
        os.fsync(target.fileno())
    return size


# --- configuration --------------------------------------------------------------------------------------------------

_TRUTHS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


def fuse_config(defaults: Mapping[str, Scalar], overrides: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return the app's `defaults` with a run's `overrides`, each turned into the type of its default.

    Raises:
        RunConfigInvalid: a key that the app does not know, or a value that is not of its type.
    """
    fused = dict(defaults)
    for key, value in overrides.items():
        if key not in defaults:
            raise RunConfigInvalid(key=key, why="the app does not know it", known=", ".join(sorted(defaults)) or "none")
        try:
            fused[key] = _as_type_of(defaults[key], value)
        except ValueError as error:
            raise RunConfigInvalid(key=key, why=str(error), known=", ".join(sorted(defaults))) from None
    return fused


def _as_type_of(default: Scalar, value: Scalar) -> Scalar:
    """Return `value` as the type of `default`. Raises `ValueError` where that would change what it means."""
    if isinstance(default, bool):
        known = _TRUTHS.get(str(value).lower())
        if known is None or isinstance(value, float):
            raise ValueError(f"{value!r} is neither true nor false")
        return known
    if isinstance(default, str):
        return value if isinstance(value, str) else str(value)
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is not a number")  # noqa: TRY004  (the operator's word, not the caller's type)
    what = "a whole number" if isinstance(default, int) else "a number"
    try:
        number = int(value) if isinstance(default, int) else float(value)
    except (ValueError, OverflowError):
        raise ValueError(f"{value!r} is not {what}") from None
    if isinstance(value, float) and number != value and not math.isnan(value):
        raise ValueError(f"{value!r} is not {what}")
    if isinstance(number, int) and not -(2**63) <= number < 2**63:
        raise ValueError(f"{value!r} does not fit 64 bits")
    return number
