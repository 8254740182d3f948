"""Judging what the board keeps: its enrolment, its state directory, the disk."""

from __future__ import annotations

from collections.abc import Iterator

from argosy_client.check.finding import Finding, Problem, Severity, good
from argosy_client.check.readings import Readings

MEGABYTE = 1_000_000
LOW, FULL = 500 * MEGABYTE, 50 * MEGABYTE
"""Bytes of free disk: some models and the app's own data; hardly the journal."""

NOT_ENROLLED = Problem(
    "not-enrolled",
    Severity.ERROR,
    "This board has not joined a coordinator: {path} holds no enrolment.",
    "Run the line that `argosy token create` prints on the coordinator. With --url, only the way there is checked.",
)
NOT_YET = Problem(
    "not-enrolled-yet",
    Severity.HINT,
    "This board has not joined yet.",
    "`argosy-device join {url} --token … --pin …`, with the token and the pin from `argosy token create`.",
)
ENROLMENT_BROKEN = Problem(
    "enrolment-broken",
    Severity.ERROR,
    "{why}",
    "Run this as the daemon's user. If that is so, restore the state directory or `argosy-device join … --force`.",
)
STATE_OPEN = Problem(
    "state-open",
    Severity.WARNING,
    "Other users may look into {path}: its mode is {mode}.",
    "chmod 700 {path}",
)
KEYS_OPEN = Problem(
    "keys-open",
    Severity.ERROR,
    "Other users may read the board's private keys: {keys} in {path}.",
    "chmod 600 the files. If other people use this board, remove `identity.key` and enrol it as a new device.",
)
STATE_READ_ONLY = Problem(
    "state-read-only",
    Severity.ERROR,
    "{path} cannot be written.",
    "Mount its file system read-write (an SD card that fails turns read-only: `dmesg` says so), and give the directory "
    "to the daemon's user.",
)
DISK_FULL = Problem(
    "disk-almost-full",
    Severity.ERROR,
    "{free} MB are free on the disk of {path}.",
    "Free some space; journald, apt and old runs' data are the usual places. Lower `cache_mb` if nothing else helps.",
)
DISK_LOW = Problem(
    "disk-low",
    Severity.WARNING,
    "{free} MB are free on the disk of {path}: a few models.",
    "Free some space, or lower `cache_mb` in the device's settings.",
)

ENROLMENT = (NOT_ENROLLED, NOT_YET, ENROLMENT_BROKEN)
DIRECTORY = (STATE_OPEN, KEYS_OPEN, STATE_READ_ONLY)
DISK = (DISK_FULL, DISK_LOW)


def enrolment(readings: Readings) -> Iterator[Finding]:
    """Has the board joined, and do its files hold together?"""
    joined, wanted = readings.enrolment, readings.wanted.address
    if readings.broken:
        yield ENROLMENT_BROKEN.found(why=readings.broken)
    elif joined is not None:
        yield good(f"device {joined.device} of the site {joined.site}, joined at {joined.url}")
    elif wanted is not None:
        yield NOT_YET.found(url=wanted.url)
    else:
        yield NOT_ENROLLED.found(path=readings.storage.path)


def directory(readings: Readings) -> Iterator[Finding]:
    """Can the daemon write its state, and nobody else read it?"""
    storage = readings.storage
    if not storage.exists:
        return
    if not storage.writable:
        yield STATE_READ_ONLY.found(path=storage.path)
    if storage.open_keys:
        yield KEYS_OPEN.found(path=storage.path, keys=" and ".join(storage.open_keys))
    if storage.mode & 0o077:
        yield STATE_OPEN.found(path=storage.path, mode=f"{storage.mode:o}")
    elif storage.writable and not storage.open_keys:
        yield good(f"{storage.path}, for its owner alone")


def disk(readings: Readings) -> Iterator[Finding]:
    """Is there room for models?"""
    storage = readings.storage
    if not storage.exists:
        return
    free = storage.free // MEGABYTE
    if storage.free < FULL:
        yield DISK_FULL.found(free=free, path=storage.path)
    elif storage.free < LOW:
        yield DISK_LOW.found(free=free, path=storage.path)
    else:
        yield good(f"{storage.free / 1e9:.1f} GB free in {storage.path}")
