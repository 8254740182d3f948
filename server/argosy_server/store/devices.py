"""Devices: those that are enrolled, those that wait to be, and those that are shut out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from argosy_common.clock import Clock
from argosy_common.errors import DeviceNotFound, DeviceStateForbids, NameUnusable
from argosy_server.store.audit import put_audit
from argosy_server.store.database import Database
from argosy_server.store.rows import DEVICE_TRANSITIONS, DeviceRow, DeviceState, ShutOut
from argosy_server.store.tables import Certificate, Device, clean

MAX_NAME = 64
MAX_TAGS = 32

TELLING = ("model", "serial", "accelerators")
"""Facts of an inventory that make it another board's when they change; a new kernel does not."""


class Devices:
    """The table of devices."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def add(self, row: DeviceRow) -> DeviceRow:
        """Add a device, or renew what is known of it; a name that another device has gets a number after it."""
        with self._database.write() as session:
            return put_device(session, row).to_row(DeviceRow)

    def get(self, key: str) -> DeviceRow:
        """Find a device by its id, its name, or the beginning of its id where only one begins so.

        Raises:
            DeviceNotFound: there is none, or several begin so.
        """
        with self._database.read() as session:
            return _find(session, key).to_row(DeviceRow)

    def list(self, site: str | None = None) -> list[DeviceRow]:
        """Return all devices by name, or those of one site."""
        query = select(Device).order_by(Device.name)
        if site is not None:
            query = query.where(Device.site == site)
        with self._database.read() as session:
            return [device.to_row(DeviceRow) for device in session.scalars(query)]

    def seen(
        self,
        device: str,
        *,
        boot: str | None = None,
        version: str | None = None,
        machine: str | None = None,
        name: str | None = None,
    ) -> bool:
        """Note that a device gave a sign of life, and what its birth said. False if it is not enrolled."""
        with self._database.write() as session:
            found = session.get(Device, device)
            if found is None:
                return False
            found.last_seen_at = self._clock.wall()
            for field, value in (("boot", boot), ("version", version), ("machine", machine)):
                if value is not None:
                    setattr(found, field, clean(value)[:256])
            if name and not found.renamed:
                found.name = _free_name(session, name, device)
            return True

    def describe(self, device: str, inventory: Mapping[str, object]) -> dict[str, object]:
        """Keep a device's new inventory. What is another board's in it is returned, and noted in the audit log."""
        told = {clean(name): clean(value) if isinstance(value, str) else value for name, value in inventory.items()}
        with self._database.write() as session:
            found = session.get_one(Device, device)
            before, found.inventory = found.inventory, told
            pairs = {name: (before.get(name, "nothing"), told.get(name, "nothing")) for name in TELLING}
            changed: dict[str, object] = {name: f"{old} → {new}" for name, (old, new) in pairs.items() if old != new}
            if not before:
                return {}  # it is the first word of a board that joined without one
            if changed:
                put_audit(
                    session, self._clock.wall(), device, "device.inventory-changed", subject=device, detail=changed
                )
            return changed

    def decide(self, key: str, event: str, actor: str) -> DeviceRow:
        """Follow an operator's `approve`, `reject` or `revoke`, and note it in the audit log.

        With `revoke`, every certificate that the device ever got is revoked, in the same transaction.

        Raises:
            DeviceNotFound: see `get`.
            DeviceStateForbids: there is no such way from the state that the device is in.
        """
        now = self._clock.wall()
        self.expire()
        with self._database.write() as session:
            found = _find(session, key)
            follow(found, event)
            if event == "revoke":
                mine = (Certificate.device == found.device, Certificate.revoked_at.is_(None))
                session.execute(update(Certificate).where(*mine).values(revoked_at=now))
            put_audit(session, now, actor, f"device.{event}", subject=found.device, detail={"name": found.name})
            return found.to_row(DeviceRow)

    def expire(self) -> tuple[str, ...]:
        """End the requests on which nobody decided in time; return their devices."""
        now = self._clock.wall()
        due = (Device.state_text == DeviceState.PENDING.value, Device.request_ends_at <= now)
        with self._database.read() as session:
            if session.scalar(select(Device.device).where(*due).limit(1)) is None:
                return ()  # which is nearly always so, and then nothing is written
        with self._database.write() as session:
            found = list(session.scalars(select(Device).where(*due)))
            for device in found:
                expire_request(session, device, now)
            return tuple(device.device for device in found)

    def shut_out(self) -> ShutOut:
        """Return what a broker must refuse now."""
        revoked = (Certificate.revoked_at.is_not(None), Certificate.not_after > self._clock.wall())
        with self._database.read() as session:
            devices = session.scalars(select(Device.device).where(Device.state_text == DeviceState.REVOKED.value))
            serials = session.scalars(select(Certificate.serial).where(*revoked))
            return ShutOut(sorted(devices), sorted(int(serial, 16) for serial in serials))

    def holds(self, device: str, serial: str) -> bool:
        """Tell whether this certificate was issued to this device, and not revoked since."""
        with self._database.read() as session:
            found = session.get(Certificate, serial)
            return found is not None and found.device == device and found.revoked_at is None

    def rename(self, key: str, name: str, actor: str) -> DeviceRow:
        """Give a device a name, which stays whatever the device calls itself.

        Raises:
            DeviceNotFound: see `get`.
            NameUnusable: it is empty, too long, not printable, or another device's.
        """
        why = _unusable(name)
        if why:
            raise NameUnusable(name=clean(name)[:MAX_NAME], why=why)
        with self._database.write() as session:
            found = _find(session, key)
            other = session.scalars(select(Device).where(Device.name == name)).one_or_none()
            other = other or session.get(Device, name)
            if other is not None and other.device != found.device:
                raise NameUnusable(name=name, why=f"it is that of the device {other.device}")
            detail: dict[str, object] = {"before": found.name, "name": name}
            found.name, found.renamed = name, True
            put_audit(session, self._clock.wall(), actor, "device.rename", subject=found.device, detail=detail)
            return found.to_row(DeviceRow)

    def tag(self, key: str, actor: str, *, add: Iterable[str] = (), remove: Iterable[str] = ()) -> DeviceRow:
        """Add tags to a device and take others from it; a tag that is there, or is not, is no error.

        Raises:
            DeviceNotFound: see `get`.
            NameUnusable: a tag is empty, too long or not printable, or there are too many.
        """
        added, removed = list(dict.fromkeys(add)), set(remove)
        for each in added:
            why = _unusable(each)
            if why:
                raise NameUnusable(name=clean(each)[:MAX_NAME], why=why)
        with self._database.write() as session:
            found = _find(session, key)
            tags = [each for each in dict.fromkeys([*found.tags, *added]) if each not in removed]
            if len(tags) > MAX_TAGS:
                raise NameUnusable(name=added[-1], why=f"a device has at most {MAX_TAGS} tags")
            found.tags = tags
            detail: dict[str, object] = {"tags": " ".join(tags)}
            put_audit(session, self._clock.wall(), actor, "device.tag", subject=found.device, detail=detail)
            return found.to_row(DeviceRow)


def follow(device: Device, event: str) -> None:
    """Follow one transition of the table, inside a transaction of the caller's.

    Raises:
        DeviceStateForbids: there is none; the device is left as it is.
    """
    after = DEVICE_TRANSITIONS.get((device.state, event))
    if after is None:
        raise DeviceStateForbids(device=device.device, state=device.state.value, event=event)
    device.state_text = after.value


def expire_request(session: Session, device: Device, now: datetime) -> bool:
    """End the device's request if it is pending and its time is over; tell whether it was."""
    ends = device.request_ends_at
    if device.state is not DeviceState.PENDING or ends is None or ends > now:
        return False
    follow(device, "expire")
    put_audit(session, now, "coordinator", "device.expire", subject=device.device, detail={"name": device.name})
    return True


def _unusable(text: str) -> str:
    """Return why a text that a person gave is no name; empty where it is one."""
    if not text.strip() or text != text.strip():
        return "it is empty, or has blanks around it"
    if len(text) > MAX_NAME:
        return f"it has more than {MAX_NAME} characters"
    if clean(text) != text or not text.isprintable():
        return "it has characters that cannot be shown"
    return ""


def put_device(session: Session, row: DeviceRow) -> Device:
    """Insert or replace a device inside a transaction of the caller's."""
    found = session.get(Device, row.device)
    if found is None:
        found = Device(device=row.device, last_seen_at=row.last_seen_at, boot=row.boot, enrolled_at=row.enrolled_at)
        found.renamed = False
        session.add(found)
    if not found.renamed:
        with session.no_autoflush:
            found.name = _free_name(session, row.name or row.device, row.device)
    found.site = row.site
    found.tags = row.tags
    found.state_text = row.state.value
    found.identity_public = row.identity_public
    found.certificate_pem = row.certificate_pem
    found.not_after = row.not_after
    found.inventory = row.inventory
    found.version = row.version
    found.machine = row.machine
    session.flush()
    return found


def _find(session: Session, key: str) -> Device:
    exact = session.get(Device, key) or session.scalars(select(Device).where(Device.name == key)).one_or_none()
    if exact is not None:
        return exact
    prefix = key.lower()
    if not 1 <= len(prefix) <= 16 or not set(prefix) <= set("0123456789abcdef"):
        raise DeviceNotFound(device=clean(key)[:MAX_NAME])
    # Hexadecimal only, so that no character of it is a wildcard of LIKE.
    matches = session.scalars(select(Device).where(Device.device.startswith(prefix)).limit(2)).all()
    if len(matches) > 1:
        raise DeviceNotFound(device=f"{key} (several ids begin so)")
    if not matches:
        raise DeviceNotFound(device=key)
    return matches[0]


def _free_name(session: Session, wanted: str, device: str) -> str:
    """Return `wanted`, or `wanted-2`, `wanted-3`, … where another device has it."""
    base = "".join(c if c.isprintable() else "?" for c in clean(wanted)).strip()[:MAX_NAME] or device
    query = select(Device.name).where(Device.device != device, func.substr(Device.name, 1, len(base)) == base)
    taken = set(session.scalars(query))
    number, name = 1, base
    while name in taken:
        number += 1
        name = f"{base}-{number}"
    return name
