"""This board's Argosy packages, by apt and dpkg. Nothing here but Python's own: what it upgrades may be broken.

What a package is, and whether it is what its maker signed, is apt's to judge, by the sources that the board's
administrator configured. From outside comes a version, and nothing else.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DEVICE = "argosy-device"
COORDINATOR = "argosy-coordinator"
CODE = (DEVICE, "argosy-common", "argosy-flower", "argosy-provisioning")
"""Have one version; the first three are always there together."""
LIBRARIES = ("argosy-runtime", "argosy-inference", "argosy-torch")
"""Have versions of their own, and go together."""
APT = (
    "--yes",
    "--quiet",
    "--no-remove",
    "--no-install-recommends",
    "--option=DPkg::Lock::Timeout=120",
    "--option=Dpkg::Options::=--force-confdef",
    "--option=Dpkg::Options::=--force-confold",
)
GONE = ("not-installed", "config-files")
COMMAND_S = 3600.0
"""Seconds for one command: a slow card, a slow line, and PyTorch."""
_INST = re.compile(r"^Inst (\S+) (?:\[(\S+)\] )?\((\S+)", re.MULTILINE)


class PackagesFailed(Exception):
    """A command said no; the text says why."""


@dataclass(frozen=True)
class Change:
    """What installing would do to one package; `old` is empty for a new one."""

    name: str
    old: str
    new: str


class Packages:
    """What is installed, and how to change it."""

    def installed(self) -> dict[str, str]:
        """Return our packages with their versions, those that are half installed too."""
        command = ["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package} ${Version}\n", "argosy-*"]
        done = _run(command, check=False)  # it fails where there is none
        found = [line.split(" ") for line in done.stdout.splitlines()]
        return {
            each[1]: each[2] for each in found if len(each) == 3 and each[0] not in ("not-installed", "config-files")
        }

    def is_lower(self, one: str, other: str) -> bool:
        """Tell whether a version is lower than another one."""
        return _run(["dpkg", "--compare-versions", one, "lt", other], check=False).returncode == 0

    def refresh(self) -> None:
        """Read the sources' lists. One that cannot be reached now is passed over: installing tells what is missing."""
        done = _run(["apt-get", "update", "--quiet", "--option=DPkg::Lock::Timeout=120"], check=False)
        if done.returncode:
            sys.stderr.write(f"apt-get update: {_last(done)}\n")

    def plan(self, version: str) -> list[Change]:
        """Return what installing a version would change.

        Raises:
            PackagesFailed: it cannot be installed.
        """
        done = _run(["apt-get", "install", *APT, "--simulate", *self._wanted(version)])
        return [Change(name, old, new) for name, old, new in _INST.findall(done.stdout)]

    def fetch_before(self, changes: Sequence[Change], folder: Path) -> None:
        """Fetch the packages that are installed now into `folder`: the way back must not depend on a network.

        Raises:
            PackagesFailed: one cannot be had.
        """
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        before = [f"{each.name}={each.old}" for each in changes if each.old and each.name.startswith("argosy-")]
        try:
            _run(["apt-get", "download", "--quiet", *before], folder=folder)
        except PackagesFailed as error:
            raise PackagesFailed(f"there would be no way back: {error}") from None
        if len(list(folder.glob("*.deb"))) != len(before):
            raise PackagesFailed("there would be no way back: apt did not fetch all packages of the version before")
        os.sync()

    def install(self, version: str) -> None:
        """Install a version, after what a power cut left is settled.

        Raises:
            PackagesFailed: it could not be.
        """
        self._settle()
        _run(["apt-get", "install", *APT, "--fix-broken", *self._wanted(version)])
        os.sync()

    def install_before(self, folder: Path) -> None:
        """Install what `fetch_before` fetched, whatever state the packages are in.

        Raises:
            PackagesFailed: it could not be.
        """
        debs = sorted(str(path) for path in folder.glob("*.deb"))
        if not debs:
            raise PackagesFailed(f"{folder} holds no packages")
        _run(["dpkg", "--install", "--force-confdef", "--force-confold", *debs])
        os.sync()

    def _settle(self) -> None:
        _run(["dpkg", "--configure", "--pending"], check=False)  # what this cannot mend, installing names

    def _wanted(self, version: str) -> list[str]:
        here = self.installed()
        return [f"{name}={version}" for name in CODE if name in here] + [name for name in LIBRARIES if name in here]


def _run(command: Sequence[str], *, check: bool = True, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PackagesFailed(f"{command[0]}: {error}") from None
    if check and done.returncode:
        sys.stderr.write(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}\n")
        raise PackagesFailed(f"{command[0]}: {_last(done)}")
    return done


def _last(done: subprocess.CompletedProcess[str]) -> str:
    """Return the line that says what went wrong: the first error, else the last line."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("E:", "dpkg: error"))]
    return (errors or lines[-1:] or [f"it ended with {done.returncode}"])[0][:512]
