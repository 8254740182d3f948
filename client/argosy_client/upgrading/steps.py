"""What daemon and root program tell each other in files, and the steps of an upgrade. Nothing here but Python's own.

/var/lib/argosy-device/upgrade/request.json    the daemon's: what is wanted; it is there until it is done
/var/lib/argosy-device/upgrade/healthy.json    the daemon's: it was connected, and in which start of the service
/var/lib/argosy-device-upgrade/upgrade.json    root's: how far the last upgrade is, or what it came to
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

INBOX = "upgrade"
"""The daemon's folder, in its state directory."""
REQUEST = "request.json"
HEALTHY = "healthy.json"
RECORD = "upgrade.json"
ROOT_FOLDER = Path("/var/lib/argosy-device-upgrade")
MAX_BYTES = 4096
"""Of one of these files."""

_VERSION = re.compile(r"[0-9][A-Za-z0-9.+~-]{0,63}")


class Step(StrEnum):
    """How far an upgrade is. Each is on disk before it is done."""

    INSTALLING = "installing"
    CHECKING = "checking"
    """It is installed; the daemon must connect."""
    RETURNING = "returning"
    UPGRADED = "upgraded"
    REFUSED = "refused"
    """Nothing has changed."""
    ROLLED_BACK = "rolled-back"


TRANSITIONS: dict[tuple[Step, str], Step] = {
    (Step.INSTALLING, "installed"): Step.CHECKING,
    (Step.INSTALLING, "fail"): Step.RETURNING,
    (Step.CHECKING, "healthy"): Step.UPGRADED,
    (Step.CHECKING, "fail"): Step.RETURNING,
    (Step.UPGRADED, "back"): Step.RETURNING,
    (Step.RETURNING, "returned"): Step.ROLLED_BACK,
}
"""`back` is the coordinator's word. An upgrade that is refused is `refused` from its beginning."""

RESUME: dict[Step, str] = {
    Step.INSTALLING: "installs again",
    Step.CHECKING: "waits for the daemon's health again",
    Step.RETURNING: "installs the version before",
}
"""What the next start does after a power cut; after three of them it goes back."""


@dataclass(frozen=True)
class Request:
    """What the coordinator wants of this board."""

    rollout: int
    version: str
    back: bool = False
    """Go back from `version` to what was installed before it."""

    @classmethod
    def parse(cls, data: bytes) -> Self | None:
        """Return a request; None for anything that is not exactly one."""
        found = _table(data)
        if found is None or set(found) != {"rollout", "version", "back"}:
            return None
        good = _is_number(found["rollout"]) and is_version(found["version"]) and isinstance(found["back"], bool)
        return cls(**found) if good else None

    def pack(self) -> bytes:
        """Return it as its file has it."""
        return json.dumps(asdict(self)).encode()


@dataclass(frozen=True)
class Record:
    """The last upgrade of this board."""

    rollout: int
    version: str
    step: Step
    previous: str = ""
    """What was installed before; empty where nothing was changed, so that there is nothing to go back to."""
    why: str = ""
    """Why it was refused, or is being or was taken back."""
    running: str = ""
    """The version that is installed."""
    attempts: int = 0
    """How often it was begun to install, or to check."""

    @classmethod
    def parse(cls, data: bytes) -> Self | None:
        """Return a record; None for anything that is not one. What a later version put into it is passed over."""
        found = _table(data) or {}
        known = {field.name: found[field.name] for field in fields(cls) if field.name in found}
        try:
            return cls(**{**known, "step": Step(known["step"])})
        except (KeyError, TypeError, ValueError):
            return None

    def pack(self) -> bytes:
        """Return it as its file has it."""
        return json.dumps(asdict(self), indent=1).encode() + b"\n"


def is_version(value: object) -> bool:
    """Tell whether this is a Debian version without an epoch: never an option, a path, or the name of a package."""
    return isinstance(value, str) and _VERSION.fullmatch(value) is not None


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**63


def _table(data: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
