"""`argosy doctor`: small checks of the installation, each with what to do when it fails."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from argosy_common.errors import ArgosyError
from argosy_common.files import write_atomic
from argosy_server.broker import find_mosquitto

LEAST_FREE = 1024**3
"""Bytes of free disk below which a coordinator is in danger: a few large models."""

LEAST_STEP = timedelta(minutes=5)
"""A clock that was set back by less is no matter."""
_PROBE = ".check"

LEAST_LIFE = 0.2
"""The share of its life that a device's certificate has left when somebody should look: it is renewed long before."""


@dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""

    def row(self) -> dict[str, object]:
        """Return it for the admin API."""
        return asdict(self)


def disk(*folders: Path) -> Check:
    """Is there room for blobs, and can anything be written? The folders may be on several disks."""
    told: list[str] = []
    for folder in dict.fromkeys(folders):
        free = shutil.disk_usage(folder).free
        told.append(f"{free / 1024**3:.1f} GB free in {folder}")
        if free < LEAST_FREE:
            return Check("disk", ok=False, detail=told[-1], remedy=f"Free some space on the disk of {folder}.")
        try:
            write_atomic(folder / _PROBE, b"")
            (folder / _PROBE).unlink()
        except OSError as error:
            remedy = "Look at `dmesg` and `mount`: after an error of the disk Linux mounts it read-only."
            return Check("disk", ok=False, detail=f"{folder} cannot be written: {error.strerror}", remedy=remedy)
    return Check("disk", ok=True, detail=", ".join(told))


def database(where: str, fault: str) -> Check:
    """Is the database whole? `fault` is what it finds wrong with itself."""
    if not fault:
        return Check("database", ok=True, detail=f"{where} is whole")
    remedy = "Stop the coordinator, keep a copy of the file, and `argosy restore` the newest backup."
    return Check("database", ok=False, detail=f"{where} is damaged: {fault}", remedy=remedy)


def state_is_private(state_dir: Path) -> Check:
    """Are keys and models out of other users' reach?"""
    mode = state_dir.stat().st_mode & 0o777
    ok = mode & 0o007 == 0
    return Check("state directory", ok, f"{state_dir} has mode {mode:o}", "" if ok else f"chmod 700 {state_dir}")


def keys_are_private(folder: Path) -> Check:
    """Can nobody but the coordinator's user read the authority's keys?"""
    open_ones = sorted(path for path in folder.glob("*.key") if path.stat().st_mode & 0o077)
    if not open_ones:
        return Check("keys", ok=True, detail=f"those in {folder} are for their owner only")
    remedy = f"chmod 600 {' '.join(map(str, open_ones))}, and find out who has read them: whoever has can pass for us."
    return Check(
        "keys", ok=False, detail=f"others may read {', '.join(path.name for path in open_ones)}", remedy=remedy
    )


def broker(kind: str, address: str, *, connected: bool, error: ArgosyError | None) -> Check:
    """Does the broker answer?"""
    if connected:
        return Check("broker", ok=True, detail=f"{kind} at {address}, connected")
    detail = error.message if error else f"{kind} at {address} does not answer"
    return Check("broker", ok=False, detail=detail, remedy=error.remedy_text if error else "See the coordinator's log.")


def access_control(kind: str) -> Check:
    """Does the broker keep devices apart?"""
    name = "access control"
    if kind == "external":
        return Check(name, ok=True, detail="up to the external broker; docs/operating.md has the rules it must enforce")
    if kind == "mosquitto":
        return Check(name, ok=True, detail=f"{find_mosquitto()}, by certificate")
    remedy = (
        "Install the package mosquitto: the embedded broker checks neither certificates nor topics, so every user of "
        "this machine can read and write everything, and it serves this machine only."
    )
    return Check(name, ok=False, detail="none: the embedded broker is used", remedy=remedy)


def https(url: str, *, alive: bool, blobs: bool) -> Check:
    """Can boards join, and download large blobs?"""
    name = "https"
    if not alive:
        remedy = "Restart the coordinator; its log tells why. Until then nobody can join, and blobs go by MQTT."
        return Check(name, ok=False, detail=f"nothing is served at {url}", remedy=remedy)
    what = "joining, and blobs of 8 MB and more" if blobs else "joining; blobs go by MQTT (enrolment.serve_blobs)"
    return Check(name, ok=True, detail=f"{url} serves {what}")


def authority(root: x509.Certificate, issuer: x509.Certificate, *, root_is_here: bool, now: datetime) -> Check:
    """Are the authority's certificates good for a while?"""
    name, month = "certificate authority", timedelta(days=30)
    left, root_left = issuer.not_valid_after_utc - now, root.not_valid_after_utc - now
    where = "here" if root_is_here else "offline"
    detail = f"issues for {left.days} more days; the root, {where}, is valid for {root_left.days}"
    if root_left < month:
        remedy = "Plan the root's replacement; devices enrol again under a new one."
        return Check(name, ok=False, detail=detail, remedy=remedy)
    if left < 3 * month:
        at = "Restart the coordinator" if root_is_here else "`argosy-coordinator ca renew --root-key FILE`"
        return Check(name, ok=False, detail=detail, remedy=f"{at}, or nobody can connect any more.")
    return Check(name, ok=True, detail=detail)


def own_certificates(ends: dict[str, datetime], now: datetime) -> Check:
    """Are the coordinator's own certificates good for a while? They are renewed at a start."""
    name, month = "own certificates", timedelta(days=30)
    late = sorted(each for each, end in ends.items() if end - now < month)
    if not late:
        left = min((end - now for end in ends.values()), default=timedelta(0))
        return Check(name, ok=True, detail=f"good for {left.days} more days")
    remedy = "Restart the coordinator; it makes new ones. If the clock is wrong, set that first."
    return Check(name, ok=False, detail=f"ended, or about to: {', '.join(late)}", remedy=remedy)


def clock_is_sane(now: datetime, known: datetime) -> Check:
    """Is this machine's clock set? Certificates are dated by it. `known` is a moment that has been for sure."""
    text = f"{now:%Y-%m-%d %H:%M} UTC"
    if now.year >= 2026 and now > known - LEAST_STEP:
        return Check("clock", ok=True, detail=text)
    remedy = "Set the clock, or install an NTP client. Then restart the coordinator."
    return Check("clock", ok=False, detail=f"{text}, and it has been {known:%Y-%m-%d %H:%M} before", remedy=remedy)


def devices(online: int, total: int) -> Check:
    """Is anybody there?"""
    ok = total == 0 or online > 0
    remedy = "" if ok else "Check the boards and their network; `argosy device list` shows when each was last seen."
    return Check("devices", ok, f"{online} of {total} online", remedy)


def copies(names: list[str]) -> Check:
    """Is each device one board?"""
    if not names:
        return Check("copies", ok=True, detail="each device is one board")
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    remedy = (
        "Somebody copied the state directory: the copies throw each other off the broker. If you did, stop one and "
        "enrol it anew from an empty directory. If not, `argosy device revoke` shuts both out."
    )
    return Check("copies", ok=False, detail=f"two boards come as one device: {shown}", remedy=remedy)


def device_certificates(ends: dict[str, datetime], life: timedelta, now: datetime) -> Check:
    """Do the devices renew their certificates? `ends` has, by name, when that of each enrolled device ends."""
    late = sorted(name for name, end in ends.items() if end - now < LEAST_LIFE * life)
    name = "device certificates"
    if not late:
        return Check(name, ok=True, detail=f"{len(ends)} good for a while")
    shown = ", ".join(late[:5]) + (f" and {len(late) - 5} more" if len(late) > 5 else "")
    remedy = (
        "These renew them by themselves once they are online and reach the https port; `renewal.failed` in a board's "
        "log says why not. Longer than enrolment.grace_s after the end they need a token: `argosy token create`."
    )
    return Check(name, ok=False, detail=f"ended, or about to: {shown}", remedy=remedy)


def inference(*, enabled: bool, trouble: str) -> Check:
    """Can models be run for devices, where that is wanted?"""
    if not enabled:
        return Check("inference", ok=True, detail="no models are run for devices (inference.enabled)")
    remedy = (
        "pip install 'argosy[inference,export]' in the coordinator's environment; see its log. Devices go on alone."
    )
    return Check("inference", not trouble, trouble or "models are run for devices that ask", remedy if trouble else "")


def examine(checks: list[Callable[[], Check]]) -> list[dict[str, object]]:
    """Run the checks; one that cannot be made is a finding itself."""
    rows: list[dict[str, object]] = []
    for check in checks:
        try:
            rows.append(check().row())
        except (OSError, ArgosyError) as error:
            rows.append(Check(check.__name__, ok=False, detail=str(error), remedy=f"(process {os.getpid()})").row())
    return rows
