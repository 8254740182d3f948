"""What goes onto a flashed card's boot partition, so that its board joins by itself.

argosy-enrol.toml          the enrolment, with the token; erased by the board (argosy_common.enrolment_file)
argosy-first-boot.service  the unit that joins, as it is in packaging/systemd
and what installs that unit at the first boot:
    raspberry-pi-os        a marked block in firstrun.sh, and the words in cmdline.txt that make systemd run it
    cloud-init             vendor-data, a shell script

Nothing is parsed and written back. cloud-init runs a script that is its vendor data beside whatever `user-data` asks
for, so that file, which belongs to the imager and to people, is not touched; and as the token stays out of it, no copy
of it is left under /var/lib/cloud. The block stands at the top of firstrun.sh since the imager's script ends with
`exit`, and since Bookworm, when it corrects the paths in there, drops all behind the line that removes the script.

The file with the token is written last: a card that could not be finished holds no secret.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib.resources import files
from pathlib import Path

from argosy_common.enrolment_file import FILE, NOTE, UNIT, EnrolmentFile
from argosy_common.errors import BootFileTaken, BootFolderInvalid, CardFull, CardReadOnly, CardTaken, StorageFailed
from argosy_common.files import write_atomic


class System(StrEnum):
    """The systems that a card may hold."""

    RASPBERRY_PI_OS = "raspberry-pi-os"
    CLOUD_INIT = "cloud-init"


_NEEDED = {
    System.RASPBERRY_PI_OS: ("cmdline.txt", "config.txt"),
    System.CLOUD_INIT: ("meta-data", "user-data"),
}
"""The files that every boot partition of the system has; cloud-init ignores one without these two."""

_BEGIN, _END = "# --- argosy: begin ---", "# --- argosy: end ---"
_INSTALL = f"""\
{{ systemctl cat {UNIT} >/dev/null 2>&1 ||
  install -m 644 "$card/{UNIT}" /etc/systemd/system/{UNIT}; }} &&
  systemctl enable {UNIT} ||
  echo "argosy: {UNIT} could not be installed; this board will not join by itself" >&2
"""

FIRSTRUN, CMDLINE = "firstrun.sh", "cmdline.txt"
_HOOK = (
    f"systemd.run=/boot/firmware/{FIRSTRUN} systemd.run_success_action=reboot systemd.unit=kernel-command-line.target"
)
_BLOCK = f"""\
{_BEGIN}
card=$(dirname "$0")
sed -i 's| systemd\\.[^ ]*||g' "$card/{CMDLINE}"  # once, whatever happens below
{_INSTALL}{_END}
"""
_OUR_FIRSTRUN = f"""\
#!/bin/sh
{_BLOCK}rm -f "$0"
exit 0
"""
_MARKED = re.compile(rf"^{_BEGIN}\n.*?^{_END}\n", re.MULTILINE | re.DOTALL)
_SHEBANG = re.compile(r"\A(?:#!.*\n)?")

VENDOR_DATA = "vendor-data"
_SIGNED = f"#!/bin/sh\n# argosy: lets this board join at its first boot, with {FILE}; no secret is in here\n"
_VENDOR_SCRIPT = f"""\
{_SIGNED}for card in /boot/firmware /boot; do
  [ -e "$card/{UNIT}" ] && break
done
{_INSTALL}systemctl start --no-block {UNIT}
"""


def prepare(folder: Path, system: System, wanted: EnrolmentFile, *, force: bool = False) -> list[Path]:
    """Make the card whose boot partition is mounted at `folder` enrol its board; return the files written.

    The same again gives the same files, with `force` if the enrolment is still there.

    Raises:
        BootFolderInvalid: `folder` is not that partition.
        CardTaken: an enrolment is there and `force` was not given.
        BootFileTaken: something else runs at the first boot, where only one thing can.
        CardFull, CardReadOnly, StorageFailed: the card cannot be written.
    """
    missing = [name for name in _NEEDED[system] if not (folder / name).is_file()]
    if missing:
        raise BootFolderInvalid(folder=folder, kind=system, missing=" and no ".join(missing))
    enrolment = folder / FILE
    if enrolment.exists() and not force:
        raise CardTaken(path=enrolment)
    with _writing(folder):
        hooks = _firstrun(folder) if system is System.RASPBERRY_PI_OS else _vendor_data(folder)
        hooks[folder / UNIT] = unit_text()
        for path, text in hooks.items():
            write_atomic(path, text.encode(), mode=0o755 if path.name == FIRSTRUN else 0o644)
        (folder / NOTE).unlink(missing_ok=True)
        write_atomic(enrolment, wanted.toml().encode())
    return [*hooks, enrolment]


def unit_text() -> str:
    """Return the unit that joins."""
    return (files("argosy_provisioning") / UNIT).read_text(encoding="utf-8")


def _firstrun(folder: Path) -> dict[Path, str]:
    """Return the new text of the script that runs at the first boot, and of the line that makes systemd run it."""
    script, line = folder / FIRSTRUN, folder / CMDLINE
    old = script.read_text(encoding="utf-8") if script.exists() else None
    new = _OUR_FIRSTRUN if old is None else _with_block(old)
    words, _, rest = line.read_text(encoding="utf-8").partition("\n")
    hooks = re.findall(r"(?:^| )systemd\.run=(\S*)", words)
    if not hooks:
        words = f"{words.rstrip()} {_HOOK}"
    elif not all(hook.strip('"').endswith(f"/{FIRSTRUN}") for hook in hooks):
        raise BootFileTaken(path=line, why=f"systemd.run={hooks[0]} is not {FIRSTRUN}")
    return {script: new, line: f"{words}\n{rest}"}


def _with_block(script: str) -> str:
    return _SHEBANG.sub(lambda shebang: shebang[0] + _BLOCK, _MARKED.sub("", script), count=1)


def _vendor_data(folder: Path) -> dict[Path, str]:
    path = folder / VENDOR_DATA
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    if old.strip() and not old.startswith(_SIGNED):
        raise BootFileTaken(path=path, why="it holds vendor data of somebody else")
    return {path: _VENDOR_SCRIPT}


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Give the card's failures our names."""
    try:
        yield
    except UnicodeDecodeError:
        raise StorageFailed(path=folder, why="its boot files hold something other than text") from None
    except OSError as error:
        why = error.strerror or error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CardFull(folder=folder) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise CardReadOnly(folder=folder, why=why) from error
        raise StorageFailed(path=error.filename or folder, why=why) from error
