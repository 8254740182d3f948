"""Enrolled devices."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from argosy_common.clock import Clock
from argosy_common.errors import DeviceNotFound
from argosy_server.store.database import Database
from argosy_server.store.rows import DeviceRow, DeviceState
from argosy_server.store.tables import Device, clean

MAX_NAME = 64


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
            if name:
                found.name = _free_name(session, name, device)
            return True

    def set_state(self, key: str, state: DeviceState) -> DeviceRow:
        """Shut a device out, or let it in again.

        Raises:
            DeviceNotFound: see `get`.
        """
        with self._database.write() as session:
            found = _find(session, key)
            found.state_text = state.value
            return found.to_row(DeviceRow)


def put_device(session: Session, row: DeviceRow) -> Device:
    """Insert or replace a device inside a transaction of the caller's."""
    found = session.get(Device, row.device)
    if found is None:
        found = Device(device=row.device, last_seen_at=row.last_seen_at, boot=row.boot, enrolled_at=row.enrolled_at)
        session.add(found)
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
