"""Gets the wheels of another architecture, without emulation: pip only unpacks them."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path

from contents import ROOT, UNWANTED, Package
from packaging.markers import default_environment
from packaging.requirements import Requirement

MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
"""Debian's names of the architectures, and the machine's own."""
GLIBCS = ("2_17", "2_24", "2_27", "2_28", "2_31", "2_34", "2_35")
"""Those of bookworm's glibc, 2.36, that wheels are built for."""


def install(package: Package, arch: str, python: str, target: Path) -> None:
    """Unpack the package's wheels for `arch` into the folder `target`.

    Raises:
        subprocess.CalledProcessError: pip found no wheel of a version that is allowed; it says which.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        constraints = folder / "constraints.txt"
        constraints.write_text("".join(f"{line}\n" for line in _constraints(MACHINES[arch])))
        options = ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}"]
        abis = [f"cp{python.replace('.', '')}", "abi3", "none"]
        options += [f"--abi={abi}" for abi in abis]
        options += [f"--platform=manylinux_{glibc}_{MACHINES[arch]}" for glibc in GLIBCS]
        options += [f"--platform=manylinux2014_{MACHINES[arch]}"]

        def fetched(groups: Iterable[str], where: Path) -> dict[str, Path]:
            _pip("download", f"--dest={where}", f"--constraint={constraints}", *options, *_requirements(groups))
            return {_project(wheel): wheel for wheel in where.glob("*.whl")}

        ours = fetched((*package.besides, *package.wheels), folder / "all")
        theirs = fetched(package.besides, folder / "besides") if package.besides else {}
        wanted = [str(wheel) for name, wheel in ours.items() if name not in theirs and name not in UNWANTED]
        _pip("install", f"--target={target}", "--no-deps", "--no-index", "--no-compile", *options, *wanted)


def _pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *words]
    subprocess.run(command, check=True)


def _project(wheel: Path) -> str:
    return re.sub(r"[-_.]+", "-", wheel.name.split("-")[0]).lower()


def _requirements(groups: Iterable[str]) -> list[str]:
    """Return what `pyproject.toml` asks for in these extras; "" are the requirements of all, "torch" is torch alone."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras: dict[str, list[str]] = {**project["optional-dependencies"], "": project["dependencies"]}
    extras["torch"] = [each for each in extras["examples"] if Requirement(each).name == "torch"]
    found = [each for group in groups for each in extras[group]]
    return [each for each in found if Requirement(each).name not in UNWANTED]


def _constraints(machine: str) -> list[str]:
    """Return the constraints that hold on `machine`; pip would judge them by the machine it runs on."""
    environment = {name: str(value) for name, value in default_environment().items()} | {"platform_machine": machine}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    held = [each for each in found if each.marker is None or each.marker.evaluate(environment)]
    return [f"{each.name}{each.specifier}" for each in held]
