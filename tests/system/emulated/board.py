"""A Raspberry Pi's software without the board: an arm64 system under qemu's emulation of its processor, a Cortex-A72.

Its files are made once (`debs.CACHE`) by debootstrap and dpkg, which unpack them without running any. It shares this
machine's network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.system.debs import CACHE, built, deb

SUITE = "bookworm"
PACKAGES = "python3,ca-certificates,libstdc++6"
OURS = ("argosy-common", "argosy-flower", "argosy-device", "argosy-runtime", "argosy-inference")
_ENTER = Path(__file__).with_name("enter.sh")
_NAMESPACES = ("unshare", "--user", "--map-root-user", "--mount")
_REGISTER = "mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc && test -w /proc/sys/fs/binfmt_misc/register"


def why_not() -> str:
    """Say what this machine lacks to emulate another one; nothing if it can."""
    if os.geteuid() != 0:
        return "unpacking another system needs root"
    for program, package in (("qemu-aarch64-static", "qemu-user-static"), ("dpkg-deb", "dpkg")):
        if shutil.which(program) is None:
            return f"{program} is missing: apt install {package}"
    if shutil.which("debootstrap") is None and not (CACHE / "arm64").is_dir():
        return "there is no arm64 system, and no debootstrap to make one: apt install debootstrap"
    done = subprocess.run([*_NAMESPACES, "sh", "-c", _REGISTER], capture_output=True, text=True, check=False)
    return f"no emulation of our own is allowed here: {done.stderr.strip()}" if done.returncode else ""


def tree() -> Path:
    """Return the system's files with our packages of now in them; the first time takes some minutes.

    Raises:
        subprocess.CalledProcessError: Debian's mirror cannot be reached, or what a tool names.
    """
    made = CACHE / "arm64"
    if not made.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        half = CACHE / "arm64.partial"
        shutil.rmtree(half, ignore_errors=True)
        command = ["debootstrap", "--foreign", "--arch=arm64", "--variant=minbase", f"--include={PACKAGES}"]
        subprocess.run(
            [*command, SUITE, str(half), "http://deb.debian.org/debian"], check=True, stdout=subprocess.DEVNULL
        )
        for archive in sorted((half / "var/cache/apt/archives").glob("*.deb")):
            _unpack(archive, half)
        half.rename(made)
    shutil.rmtree(made / "usr/lib/argosy", ignore_errors=True)
    folder = built("arm64")
    for package in OURS:
        _unpack(deb(folder, package), made)
    return made


def _unpack(archive: Path, target: Path) -> None:
    subprocess.run(["dpkg-deb", "--extract", str(archive), str(target)], check=True)


class Board:
    """One emulated board, with its state in `folder`, which it knows as /srv/state."""

    STATE = "/srv/state"

    def __init__(self, tree: Path, folder: Path) -> None:
        self._tree = tree
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def command(self, *words: str) -> list[str]:
        """Return what runs a program of the board."""
        return [*_NAMESPACES, "sh", str(_ENTER), str(self._tree), str(self.folder), *words]

    @property
    def environment(self) -> Mapping[str, str]:
        """What its programs are started with."""
        return {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "QEMU_CPU": "cortex-a72",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "ARGOSY_DEVICE_STATE_DIR": f"{self.STATE}/device",
        }

    def run(self, *words: str, timeout_s: float = 300.0) -> str:
        """Run a program to its end and return what it printed; fails with what it said."""
        done = subprocess.run(
            self.command(*words),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout
