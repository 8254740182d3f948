"""Gets the libraries of another architecture, without emulation: nothing of them is run, only unpacked.

By uv, which resolves for the machine that it is told of; pip would judge each `platform_machine` by its own, and ask
for the CUDA libraries of a PC on behalf of a Raspberry Pi.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path

from contents import ROOT, UNWANTED, Package
from packaging.requirements import Requirement

MACHINES = {"amd64": "x86_64-manylinux_2_28", "arm64": "aarch64-manylinux_2_28"}
"""Debian's names of the architectures, and uv's of a machine and its C library; that of bookworm is 2.36."""


def install(package: Package, arch: str, python: str, target: Path) -> None:
    """Unpack the libraries of `package` for `arch` into the folder `target`.

    Raises:
        subprocess.CalledProcessError: there is no wheel of a version that is allowed; uv says which.
    """
    machine = [f"--python-platform={MACHINES[arch]}", f"--python-version={python}", "--only-binary=:all:"]
    wanted = _resolved((*package.besides, *package.wheels), machine)
    theirs = _resolved(package.besides, machine) if package.besides else []
    ours = [pin for pin in wanted if pin not in theirs and pin.split("==")[0] not in UNWANTED]
    _uv("install", f"--python={sys.executable}", f"--target={target}", "--no-deps", *machine, *ours)


def _resolved(groups: Iterable[str], machine: list[str]) -> list[str]:
    """Return what these groups of requirements and theirs come to, as `name==version`."""
    with tempfile.TemporaryDirectory() as scratch:
        requirements, pins = Path(scratch) / "requirements.in", Path(scratch) / "pins.txt"
        requirements.write_text("\n".join(_requirements(groups)))
        told = ["--no-header", "--no-annotate", "--constraints", str(ROOT / "constraints.txt")]
        _uv("compile", *machine, *told, f"--output-file={pins}", str(requirements))
        return pins.read_text().split()


def _uv(verb: str, *words: str) -> None:
    subprocess.run([sys.executable, "-m", "uv", "pip", verb, "--quiet", *words], check=True)


def _requirements(groups: Iterable[str]) -> list[str]:
    """Return what `pyproject.toml` asks for in these extras; "" are the requirements of all, "torch" is torch alone."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras: dict[str, list[str]] = {**project["optional-dependencies"], "": project["dependencies"]}
    extras["torch"] = [each for each in extras["examples"] if Requirement(each).name == "torch"]
    found = [each for group in groups for each in extras[group]]
    return [each for each in found if Requirement(each).name not in UNWANTED]
