"""What the checks look at, read once: the board, its state directory, its clock, and the way to the coordinator.

Everything that touches a file, a socket or the time is here, in `network.py` and in `access.py`. Nothing is changed,
and every wait ends after `PATIENCE_S`.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from argosy_client import identity
from argosy_client.addresses import link_settings
from argosy_client.check.access import Access, try_access
from argosy_client.check.network import PATIENCE_S, Route, Service, at_once, try_broker, try_service
from argosy_client.identity import Enrolment
from argosy_client.instance import running_pid
from argosy_client.inventory import Inventory, take_inventory
from argosy_client.time_floor import ClockState, TimeFloor, is_synchronised
from argosy_common import x509
from argosy_common.clock import Clock
from argosy_common.coordinator_https import Address
from argosy_common.errors import CertificateInvalid, NotEnrolled

MOST_ROUTES = 8
"""Addresses of the broker that are tried; a coordinator may tell of dozens."""


@dataclass(frozen=True)
class Wanted:
    """Where a board is to join, for a check before it has."""

    address: Address | None = None
    pin: str = ""


@dataclass(frozen=True)
class Storage:
    """The state directory and its disk."""

    path: Path
    exists: bool
    mode: int = 0o700
    writable: bool = True
    free: int = 0
    """Bytes."""
    open_keys: tuple[str, ...] = ()
    """Private keys that others than the owner may read."""


@dataclass(frozen=True)
class Certificate:
    """When the device's certificate begins and ends."""

    begins: datetime
    ends: datetime


@dataclass(frozen=True)
class Readings:
    """Everything that is known to the checks. None: it could not be read, or does not apply."""

    wall: datetime
    floor: datetime
    clock: ClockState
    storage: Storage
    inventory: Inventory
    bits: int
    """Of the Python that runs this: 32 or 64."""
    memory_cgroup: bool | None
    """Whether the kernel can limit the memory of a service."""
    unusable: tuple[str, ...] = ()
    """Device nodes of accelerators that this user may not open."""
    enrolment: Enrolment | None = None
    broken: str = ""
    """Why there is an enrolment that cannot be used."""
    certificate: Certificate | None = None
    pid: int | None = None
    """The daemon's process; None: it does not run."""
    wanted: Wanted = Wanted()
    service: Service | None = None
    broker: tuple[Route, ...] = ()
    access: Access | None = None


def read(
    state_dir: Path,
    *,
    clock: Clock,
    wanted: Wanted = Wanted(),
    root: Path = Path("/"),
    synchronised: Callable[[], bool | None] | None = None,
    patience_s: float = PATIENCE_S,
) -> Readings:
    """Look at the board and try the way to the coordinator; never raises for what it finds."""
    enrolment, broken = _enrolment(state_dir)
    floor = TimeFloor(
        state_dir,
        enrolment.certificate_path if enrolment else None,
        clock=clock,
        synchronised=synchronised or (lambda: is_synchronised(root)),
    )
    found = take_inventory(root)
    pid = running_pid(state_dir)
    service, broker, access = _coordinator(enrolment, wanted, alone=pid is None, patience_s=patience_s)
    return Readings(
        wall=clock.wall(),
        floor=floor.floor,
        clock=floor.state,
        storage=_storage(state_dir),
        inventory=found,
        bits=64 if sys.maxsize > 2**32 else 32,
        memory_cgroup=memory_cgroup(root),
        unusable=tuple(
            one.node
            for one in found.accelerators
            if one.node and not os.access(root / one.node.lstrip("/"), os.R_OK | os.W_OK)
        ),
        enrolment=enrolment,
        broken=broken,
        certificate=_certificate(enrolment),
        pid=pid,
        wanted=wanted,
        service=service,
        broker=broker,
        access=access,
    )


def _enrolment(state_dir: Path) -> tuple[Enrolment | None, str]:
    try:
        return Enrolment.load(state_dir), ""
    except NotEnrolled:
        return None, ""
    except CertificateInvalid as error:
        return None, error.message


def _certificate(enrolment: Enrolment | None) -> Certificate | None:
    if enrolment is None:
        return None
    found = x509.load_certificate(enrolment.certificate_path)
    return Certificate(found.not_valid_before_utc, found.not_valid_after_utc)


def _storage(state_dir: Path) -> Storage:
    if not state_dir.is_dir():
        return Storage(state_dir, exists=False)
    keys = (state_dir / name for name in (identity.IDENTITY_KEY, identity.TLS_KEY))
    return Storage(
        state_dir,
        exists=True,
        mode=stat.S_IMODE(state_dir.stat().st_mode),
        writable=os.access(state_dir, os.W_OK) and not os.statvfs(state_dir).f_flag & os.ST_RDONLY,
        free=shutil.disk_usage(state_dir).free,
        open_keys=tuple(key.name for key in keys if key.exists() and key.stat().st_mode & 0o077),
    )


def memory_cgroup(root: Path) -> bool | None:
    """Tell whether the kernel's memory controller is on; None where neither version of cgroups says."""
    if (controllers := _text(root / "sys/fs/cgroup/cgroup.controllers")) is not None:
        return "memory" in controllers.split()
    if (listed := _text(root / "proc/cgroups")) is not None:  # name, hierarchy, groups, enabled
        return any(line.split()[::3] == ["memory", "1"] for line in listed.splitlines())
    return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None


def _coordinator(
    enrolment: Enrolment | None, wanted: Wanted, *, alone: bool, patience_s: float
) -> tuple[Service | None, tuple[Route, ...], Access | None]:
    """Try the enrolment service and the broker's addresses side by side, then what the broker lets us do."""
    address = wanted.address or (Address.parse(enrolment.url) if enrolment else None)
    services = [] if address is None else [Service(address.url, Route(address.host, address.port))]
    routes: list[Route] = []
    if enrolment is not None:
        link = link_settings(enrolment)
        hosts = [(link.host, link.port), *link.elsewhere]
        routes = [Route(host, port) for host, port in hosts[:MOST_ROUTES]]
    ca = enrolment.ca_path.read_text(encoding="ascii") if enrolment else None
    jobs: list[Callable[[], None]] = [partial(try_service, one, ca, patience_s) for one in services]
    if enrolment is not None:
        jobs += [partial(try_broker, one, enrolment.tls_files(), patience_s) for one in routes]
    at_once(jobs, 2 * patience_s)
    good = next((route for route in routes if route.good), None)
    access = None
    if enrolment is not None and good is not None and alone:
        access = try_access(enrolment, good.host, good.port, patience_s)
    return (services[0] if services else None), tuple(routes), access
