"""The fleet lists that the operator installed: `fleet/<version>.json` in the state directory, the highest is in force.

The coordinator vouches for nothing here. It keeps the lists and hands the newest on; only a device decides, with the
key that it has pinned. What is checked at installing spares the operator a list that no device would take. The
operator's key is the one that the first list named: trust on first use.

The same key's overrides of undecided attempts go into the ledger of secure rounds, where runs find them.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from pathlib import Path

from argosy_common.blobs.store import storage_errors
from argosy_common.errors import FleetListOutdated, OverrideInvalid
from argosy_common.files import private_folder, write_atomic
from argosy_common.logs import get_logger
from argosy_common.secagg import override
from argosy_common.secagg.fleet import FleetList, follow, named_operator, verify
from argosy_common.secure_ledger import Ledger, Undecided
from argosy_common.x509 import PublicKey, short_fingerprint

log = get_logger(__name__)

_NAME = re.compile(r"([1-9][0-9]{0,15})\.json")


@dataclass(frozen=True)
class Installed:
    """The list in force, and whose key signed it."""

    fleet: FleetList
    operator: PublicKey


class FleetLists:
    """The lists in one folder, which is made with the first of them, and the ledger of secure rounds. Thread-safe."""

    def __init__(self, folder: Path, ledger: Ledger | None = None) -> None:
        self.folder = folder
        self._ledger = ledger or Ledger()
        self._lock = threading.Lock()

    def current(self) -> bytes | None:
        """Return the list in force as it was signed, or None: the devices trust the coordinator then.

        Raises:
            StorageFailed: it cannot be read.
        """
        path = self._newest()
        if path is None:
            return None
        with storage_errors(path):
            return path.read_bytes()

    def installed(self) -> Installed | None:
        """Return the list in force.

        Raises:
            FleetListInvalid: its file was damaged.
            StorageFailed: it cannot be read.
        """
        data = self.current()
        if data is None:
            return None
        where = f"in {self.folder}"
        operator = named_operator(data, where=where)
        return Installed(verify(data, operator, where=where), operator)

    def install(self, data: bytes) -> Installed:
        """Take the next list, or the list in force once more. Where there is none, any version may be the first: the
        devices may have seen others with a coordinator before this one.

        Raises:
            FleetListInvalid: it is none, or not signed by the operator's key that the lists before it were signed with.
            FleetListOutdated: it does not follow the list in force.
            StorageFailed, DiskFull: it cannot be kept; the list before it stays in force.
        """
        where = "that was sent"
        with self._lock:
            known = self.installed()
            operator = named_operator(data, where=where) if known is None else known.operator
            new = Installed(verify(data, operator, where=where), operator)
            if known is not None:
                _check_successor(known.fleet, new.fleet)
                if new.fleet.digest == known.fleet.digest:
                    return known
            with storage_errors(self.folder, len(data)):
                write_atomic(private_folder(self.folder) / f"{new.fleet.version}.json", data)
        log.info("fleet.installed", version=new.fleet.version, operator=short_fingerprint(operator))
        return new

    def undecided(self) -> list[Undecided]:
        """Return the attempts at secure rounds of which nothing shows how they ended, the latest last.

        Raises:
            SecureMessageMalformed: the ledger is damaged.
            StorageFailed: it cannot be read.
        """
        return self._ledger.undecided()

    def override(self, data: bytes) -> Undecided:
        """Take the operator's override of an undecided attempt, for the next try at its instruction.

        Raises:
            OverrideInvalid: it is none, not signed by the operator's key of the list in force, or of no such attempt.
            FleetListInvalid, SecureMessageMalformed: the list in force, or the ledger, is damaged.
            StorageFailed, DiskFull: it cannot be kept.
        """
        where = "that was sent"
        known = self.installed()
        if known is None:
            why = "this fleet has no list of an operator's, and so no key that could override anything"
            raise OverrideInvalid(where=where, why=why)
        found = override.verify(data, known.operator, where=where)
        attempt = next((it for it in self.undecided() if it.attempt.sid == found.sid), None)
        if attempt is None:
            raise OverrideInvalid(where=where, why="no undecided attempt here has its sid")
        self._ledger.write_override(found.sid, found.signature)
        log.warning("fleet.overridden", sid=found.sid.hex(), operator=short_fingerprint(known.operator))
        return attempt

    def _newest(self) -> Path | None:
        with storage_errors(self.folder):
            names = [path.name for path in self.folder.iterdir()] if self.folder.exists() else []
        versions = [int(match[1]) for name in names if (match := _NAME.fullmatch(name))]
        return self.folder / f"{max(versions)}.json" if versions else None


def _check_successor(known: FleetList, new: FleetList) -> None:
    follow((known.version, known.digest), new)
    if new.version > known.version + 1:
        why = f"version {known.version} is in force here, and versions are installed one after the other"
        raise FleetListOutdated(found=new.version, why=why)
