"""The Debian packages for tests that install them, built in a folder that outlives the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("ARGOSY_SYSTEMS", ROOT / ".demo" / "systems"))
"""Where what takes minutes to make is kept: the files of whole systems, and the packages with libraries."""


def build_code(folder: Path, *, version: str | None = None) -> Path:
    """Build the packages with code into `folder`, in place of those that are there; return the folder."""
    for old in folder.glob("*_all.deb"):
        old.unlink()
    _build("code", "--out", str(folder), *(["--version", version] if version else []))
    return folder


def built(arch: str) -> Path:
    """Return a folder with all packages but torch: the code of now, and its libraries for `arch`, built if need be."""
    folder = build_code(CACHE / "debs" / arch)
    wanted = _field(deb(folder, "argosy-common"), "Depends").split("argosy-runtime (>= ")[1].rstrip(")")
    if not (folder / f"argosy-inference_{wanted}_{arch}.deb").exists():
        for old in folder.glob(f"*_{arch}.deb"):
            old.unlink()
        _build("runtime", "--arch", arch, "--out", str(folder))
    return folder


def deb(folder: Path, package: str) -> Path:
    """Return the file of a package."""
    return next(folder.glob(f"{package}_*.deb"))


def _build(*words: str) -> None:
    subprocess.run([sys.executable, str(ROOT / "packaging/deb/build_debs.py"), *words], check=True)


def _field(deb: Path, name: str) -> str:
    return subprocess.check_output(["dpkg-deb", "--field", str(deb), name], text=True).strip()
