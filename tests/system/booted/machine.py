"""A Debian system with its own systemd, booted in about a second in namespaces of this machine. Needs root.

Its files are a tree that debootstrap makes once (`debs.CACHE`); what happens in
it stays in memory and is gone afterwards.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self

from tests.system.debs import CACHE
from tests.waiting import until

SUITE = "bookworm"
PACKAGES = "systemd,systemd-sysv,dbus,python3,python3-systemd,mosquitto,ca-certificates,iproute2"
"""What our packages depend on: they are installed without a network."""
BOOT_S = 60.0
_NAMESPACES = ("--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup")


def why_not() -> str:
    """Say what this machine lacks to boot another one in; nothing if it can."""
    if os.geteuid() != 0:
        return "booting a system needs root"
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        return "unshare and nsenter are missing: apt install util-linux"
    done = subprocess.run(["unshare", *_NAMESPACES, "--fork", "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        return f"namespaces are not allowed here: {done.stderr.strip()}"
    if not (CACHE / "booted").is_dir() and shutil.which("debootstrap") is None:
        return f"there is no system in {CACHE}/booted, and no debootstrap to make one: apt install debootstrap"
    return ""


def tree() -> Path:
    """Return the system's files, made now if need be: about a minute, from a mirror of Debian.

    Raises:
        subprocess.CalledProcessError: the mirror cannot be reached, or what debootstrap names.
    """
    made = CACHE / "booted"
    if not made.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        half = CACHE / "booted.partial"
        shutil.rmtree(half, ignore_errors=True)
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(half)]
        subprocess.run([*command, "http://deb.debian.org/debian"], check=True, stdout=subprocess.DEVNULL)
        half.rename(made)
    return made


class Machine:
    """One booted system. A context manager: leaving it ends all of its processes."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="argosy-booted-"))
        self._groups = [_control_group(hierarchy) for hierarchy in _hierarchies()]
        boot = str(Path(__file__).with_name("boot.sh"))
        with (self._folder.with_suffix(".log")).open("wb") as log:
            self._process = subprocess.Popen(
                ["unshare", *_NAMESPACES, "--fork", "--kill-child", "sh", boot, str(tree()), str(self._folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=self._enter_groups,  # noqa: PLW1509  (no thread of ours runs yet)
            )

    def __enter__(self) -> Self:
        """Wait until the system has come up."""
        up = until(self._is_up, patience_s=BOOT_S)
        if not up:
            told = self._folder.with_suffix(".log").read_text(errors="replace")
            self.__exit__()
            raise TimeoutError(f"the system did not come up in {BOOT_S:.0f} s: {told[-2000:]}")
        return self

    def __exit__(self, *_: object) -> None:
        """End it as pulling the plug would."""
        self._process.send_signal(signal.SIGKILL)  # unshare takes its child along, and the kernel the rest
        self._process.wait(20)
        for group in self._groups:
            until(lambda group=group: _removed(group), patience_s=10)  # type: ignore[misc]
        self._folder.with_suffix(".log").unlink(missing_ok=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def root(self) -> Path:
        """The system's root folder, as seen from outside."""
        return Path(f"/proc/{self._pid()}/root")

    def run(self, *words: str, check: bool = True, timeout_s: float = 180.0) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as its root; fails with what the command said, unless `check` is false."""
        enter = ["nsenter", f"--target={self._pid()}", *_NAMESPACES, "--root", "--wd"]
        done = subprocess.run(
            [*enter, "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", *words],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"{' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *words: str) -> Any:  # noqa: ANN401  (as the command prints it)
        """Run a command that prints JSON, and return it."""
        return json.loads(self.run(*words, "--json").stdout)

    def unit(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).stdout.strip()

    def active(self, unit: str) -> bool:
        """Whether a unit is up."""
        return self.unit(unit, "ActiveState") == "active"

    def journal(self, unit: str) -> list[dict[str, Any]]:
        """Return what a unit logged, with its fields."""
        told = self.run("journalctl", "--unit", unit, "--output=json", "--no-pager").stdout
        return [json.loads(line) for line in told.splitlines()]

    def _pid(self) -> int:
        """Return the process that is the system's first, as this machine counts."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        if not children:
            raise ProcessLookupError("the system has ended")
        return int(children[0])

    def _is_up(self) -> bool:
        if self._process.poll() is not None:
            return False
        try:
            state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        except ProcessLookupError:
            return False
        return state in ("running", "degraded")

    def _enter_groups(self) -> None:
        for group in self._groups:
            (group / "cgroup.procs").write_text(str(os.getpid()))


def _hierarchies() -> list[Path]:
    """Return this machine's control group hierarchies."""
    top = Path("/sys/fs/cgroup")
    if (top / "cgroup.procs").exists():
        return [top]
    return [each for each in top.iterdir() if not each.is_symlink() and (each / "cgroup.procs").exists()]


def _control_group(hierarchy: Path) -> Path:
    """Make a group of our own, so that the system inside sees and rules no other."""
    group = hierarchy / f"argosy-booted-{os.getpid()}"
    group.mkdir(exist_ok=True)
    if (group / "cpuset.cpus").exists() and not (group / "cpuset.cpus").read_text().strip():
        for each in ("cpuset.cpus", "cpuset.mems"):
            (group / each).write_text((hierarchy / each).read_text())
    return group


def _removed(group: Path) -> bool:
    """Remove a group and those below it, which no process is in any more."""
    for folder, _, _ in os.walk(group, topdown=False):
        try:
            Path(folder).rmdir()
        except OSError:
            return False
    return not group.exists()
