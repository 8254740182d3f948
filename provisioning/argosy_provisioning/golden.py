"""What must go from an image before it is copied: its boards must not share a name, a key or a token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from argosy_common.enrolment_file import FILE, PLACES


@dataclass(frozen=True)
class Leftover:
    """A thing that is each board's own."""

    pattern: str
    """A glob below the image's root."""
    why: str
    clear: str
    """The command that clears it, run in the image's root."""


LEFTOVERS = (
    Leftover("etc/machine-id", "boards would get one address by DHCP", "truncate -s 0 etc/machine-id"),
    Leftover("var/lib/dbus/machine-id", "a copy of it", "ln -sf /etc/machine-id var/lib/dbus/machine-id"),
    Leftover("etc/ssh/ssh_host_*_key*", "whoever has one board could pose as all", "rm etc/ssh/ssh_host_*_key*"),
    Leftover("var/lib/argosy-device/*", "all boards would be one device", "rm -r var/lib/argosy-device"),
    Leftover("var/lib/systemd/random-seed", "all would begin with one entropy", "rm var/lib/systemd/random-seed"),
    Leftover("var/lib/cloud/instances/*", "cloud-init would not run again", "rm -r var/lib/cloud/instance*"),
    *(Leftover(f"{place}/{FILE}", "a token is for one board", f"rm {place}/{FILE}") for place in PLACES),
)


def left_over(root: Path) -> list[Leftover]:
    """Return what is still there in the image mounted at `root`."""
    return [each for each in LEFTOVERS if any(_counts(path) for path in root.glob(each.pattern))]


def _counts(path: Path) -> bool:
    """Tell whether the path holds something of its own: a link does not, nor an empty or `uninitialized` machine id."""
    if path.is_symlink():
        return False
    return path.name != "machine-id" or path.read_text(errors="replace").strip() not in ("", "uninitialized")
