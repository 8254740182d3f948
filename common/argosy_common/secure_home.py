"""Where a device keeps what secure rounds need. Light: daemons hand it to the process that uses it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast


@dataclass(frozen=True)
class SecureHome:
    """Paths, and one choice.

    Attributes:
        folder: for the journal of secure rounds.
        identity_key: the file of the device's long-lived key.
        operator_key: the file of the operator's public key that was pinned at enrolment; None: coordinator trusted at
            enrolment.
        required: whether the device takes part in secure runs only.
        least: the fewest clients of a group that it takes part in. In a group of n, n // 4 colluders are tolerated, and
            the coordinator forms the groups: a fleet of many gains by more than four.
        ciphers: those that it accepts for masks, by name; empty: all.
    """

    folder: Path
    identity_key: Path
    operator_key: Path | None = None
    required: bool = False
    least: int = 4
    ciphers: tuple[str, ...] = ()

    def to_wire(self) -> dict[str, object]:
        """Return it as plain data, for another process."""
        operator = None if self.operator_key is None else str(self.operator_key)
        return {
            "folder": str(self.folder),
            "identity_key": str(self.identity_key),
            "operator_key": operator,
            "required": self.required,
            "least": self.least,
            "ciphers": list(self.ciphers),
        }

    @classmethod
    def from_wire(cls, data: Mapping[str, object]) -> SecureHome:
        """Return what `to_wire` wrote."""
        operator = data["operator_key"]
        return cls(
            Path(str(data["folder"])),
            Path(str(data["identity_key"])),
            None if operator is None else Path(str(operator)),
            bool(data["required"]),
            int(str(data["least"])),
            tuple(map(str, cast("list[str]", data["ciphers"]))),
        )
