"""The daemon's part in an upgrade of its own packages: it leaves the coordinator's word for root, and tells what came.

The daemon may install nothing. It writes a request, which the service manager notices (`argosy-device-upgrade.path`),
and later finds what became of it in root's record; very likely another process of it does, of another version.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from argosy_client.gateway import error_part
from argosy_client.settings import UpgradeTable
from argosy_client.upgrading.steps import HEALTHY, INBOX, RECORD, REQUEST, Record, Request, Step
from argosy_common.errors import (
    ArgosyError,
    StorageFailed,
    UpgradeFailed,
    UpgradeNotAllowed,
    UpgradeRefused,
    UpgradeUnavailable,
)
from argosy_common.files import private_folder, write_atomic
from argosy_common.logs import get_logger
from argosy_common.wire.bodies import Upgrade, UpgradeState
from argosy_common.wire.envelope import Envelope

log = get_logger(__name__)

Said = Literal["fetching", "refused", "active", "rolled-back"]

_SAID: dict[Step, Said] = {
    Step.INSTALLING: "fetching",
    Step.CHECKING: "fetching",
    Step.RETURNING: "fetching",
    Step.UPGRADED: "active",
    Step.REFUSED: "refused",
    Step.ROLLED_BACK: "rolled-back",
}
"""A step in the words of an `UpgradeState`."""
ENDS = frozenset({Step.UPGRADED, Step.REFUSED, Step.ROLLED_BACK})


class Orders:
    """The upgrades of this device. All calls are quick, and may come from any thread.

    Args:
        tell: sends a report; one that is lost is made up for after the next connect.
    """

    def __init__(self, settings: UpgradeTable, state_dir: Path, *, tell: Callable[[UpgradeState], object]) -> None:
        self._settings = settings
        self._inbox = state_dir / INBOX
        self._post = tell
        self._seen = self._mark()

    def take(self, _envelope: Envelope, body: Upgrade) -> None:
        """Take the coordinator's word. What is over already is answered again."""
        known = self._record()
        mine = known is not None and (known.rollout, known.version) == (body.rollout, body.version)
        try:
            self._check()
            if known is not None and mine and known.step in ENDS and not (body.back and known.step is Step.UPGRADED):
                self._tell(known)
            elif body.back and not mine:
                self._say(body, "rolled-back", running=known.running if known else "")  # it never came to it
            else:
                self._ask(body)
                self._say(body, "fetching", running=known.running if known else "")
        except ArgosyError as error:
            log.warning("upgrade.refused", version=body.version, code=error.code, why=error.message)
            # what this upgrade has done already is done, whatever may be done no more
            state = _SAID[known.step] if known is not None and mine else "refused"
            self._say(body, state, error, running=known.running if known else "")

    def link_up(self) -> None:
        """Note for root that this process was connected, and tell where the last upgrade stands."""
        if not self._settings.folder.is_dir():
            return
        note = json.dumps({"invocation": os.environ.get("INVOCATION_ID", "")}).encode()
        try:
            self._write(HEALTHY, note)
        except ArgosyError as error:
            log.error("upgrade.health_not_noted", code=error.code, why=error.message)
        self._report()

    def tick(self) -> None:
        """Tell what has changed in root's record. Called about once a second."""
        if (mark := self._mark()) != self._seen:
            self._seen = mark
            self._report()

    # --- inside

    def _check(self) -> None:
        if not self._settings.folder.is_dir():
            raise UpgradeUnavailable(folder=self._settings.folder)
        if not self._settings.allowed:
            raise UpgradeNotAllowed

    def _ask(self, body: Upgrade) -> None:
        log.info("upgrade.asked", rollout=body.rollout, version=body.version, back=body.back)
        self._write(REQUEST, Request(rollout=body.rollout, version=body.version, back=body.back).pack())

    def _write(self, name: str, data: bytes) -> None:
        """Write a file, unless it is there and the same: what is said again must not wear out the card."""
        try:
            path = private_folder(self._inbox) / name
            if not path.is_file() or path.read_bytes() != data:
                write_atomic(path, data)
        except OSError as error:
            raise StorageFailed(path=self._inbox, why=error.strerror or error) from error

    def _report(self) -> None:
        if (known := self._record()) is not None:
            self._tell(known)

    def _tell(self, record: Record) -> None:
        error: ArgosyError | None = None
        if record.step is Step.REFUSED:
            error = UpgradeRefused(version=record.version, why=record.why)
        elif record.step in (Step.RETURNING, Step.ROLLED_BACK) and record.why:
            error = UpgradeFailed(version=record.version, why=record.why)
        elif record.why:  # it was to go back, and may not
            error = UpgradeNotAllowed()
        about = Upgrade(rollout=record.rollout, version=record.version)
        self._say(about, _SAID[record.step], error, running=record.running)

    def _say(self, about: Upgrade, state: Said, error: ArgosyError | None = None, *, running: str) -> None:
        self._post(
            UpgradeState(
                rollout=about.rollout,
                version=about.version,
                state=state,
                error=error_part(error) if error else None,
                running=running,
            )
        )

    def _record(self) -> Record | None:
        try:
            return Record.parse((self._settings.folder / RECORD).read_bytes())
        except OSError:
            return None

    def _mark(self) -> tuple[int, int] | None:
        """Return what changes with the record: it is replaced whole, each time."""
        try:
            found = (self._settings.folder / RECORD).stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns
