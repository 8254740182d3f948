"""The Debian packages: what lies in them, and how large they are. What they do is for tests/system/booted."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = ("argosy-common", "argosy-coordinator", "argosy-device", "argosy-flower", "argosy-provisioning")
SITE = "./usr/lib/argosy/lib/python3.11/site-packages"


@pytest.fixture(scope="module")
def debs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The packages with code, built by whoever has dpkg-deb; by name."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb is not installed here: apt install dpkg")
    out = tmp_path_factory.mktemp("debs")
    build = [sys.executable, str(ROOT / "packaging/deb/build_debs.py"), "code", "--out", str(out), "--version", "9.8.7"]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)  # it fails where one is too large
    return {path.name.split("_")[0]: path for path in out.glob("*.deb")}


def contents(deb: Path) -> list[tarfile.TarInfo]:
    data = subprocess.check_output(["dpkg-deb", "--fsys-tarfile", str(deb)])  # noqa: S607
    with tarfile.open(fileobj=BytesIO(data)) as archive:
        return archive.getmembers()


def field(deb: Path, name: str) -> str:
    return subprocess.check_output(["dpkg-deb", "--field", str(deb), name], text=True).strip()  # noqa: S607


def test_there_is_one_of_each(debs: dict[str, Path]) -> None:
    assert sorted(debs) == sorted(NAMES)
    for name, deb in debs.items():
        assert (field(deb, "Package"), field(deb, "Version"), field(deb, "Architecture")) == (name, "9.8.7", "all")


def test_together_they_are_the_source_and_no_file_is_in_two(debs: dict[str, Path]) -> None:
    found = [entry.name for deb in debs.values() for entry in contents(deb) if entry.isfile()]
    assert len(found) == len(set(found))
    for top in ("common", "client", "server", "provisioning"):
        package = ROOT / top / f"argosy_{top}"
        for source in package.rglob("*"):
            if source.is_file() and "__pycache__" not in source.parts:
                assert f"{SITE}/{source.relative_to(ROOT / top)}" in found


def test_nothing_compiled_and_nothing_secret_is_in_them(debs: dict[str, Path]) -> None:
    for deb in debs.values():
        for entry in contents(deb):
            assert "__pycache__" not in entry.name
            assert not entry.name.endswith((".pyc", ".key", ".crt", ".pem", ".db", ".sock"))
            assert (entry.uname, entry.gname) == ("root", "root")
            assert not entry.mode & 0o6022 or entry.issym(), f"{entry.name} can be written to, or runs as its owner"


def test_settings_are_set_by_their_owner_alone_and_may_be_private(debs: dict[str, Path]) -> None:
    """They are copied at the first installation, and no dialogue about them can stop an upgrade."""
    for name in ("argosy-coordinator", "argosy-device"):
        files = {entry.name for entry in contents(debs[name])}
        assert not any(file.startswith("./etc/") for file in files)
        assert f"./usr/share/argosy/{name.removeprefix('argosy-')}.toml" in files
    script = subprocess.check_output(["dpkg-deb", "--info", str(debs["argosy-coordinator"]), "postinst"], text=True)  # noqa: S607
    assert "install -m 640 -g argosy " in script
    assert "@" not in script.replace("$@", "")


def test_the_shipped_settings_can_be_used() -> None:
    from argosy_client.settings import DeviceSettings  # noqa: PLC0415
    from argosy_server.settings import CoordinatorSettings  # noqa: PLC0415

    assert CoordinatorSettings.load(ROOT / "packaging/config/coordinator.toml") == CoordinatorSettings()
    device = DeviceSettings.load(ROOT / "packaging/config/device.toml")
    assert device.inference.socket == Path("/run/argosy-device/inference.sock")


def test_every_value_that_the_shipped_settings_suggest_can_be_used(tmp_path: Path) -> None:
    from argosy_client.settings import DeviceSettings  # noqa: PLC0415
    from argosy_server.settings import CoordinatorSettings  # noqa: PLC0415

    for name, settings in (("coordinator", CoordinatorSettings), ("device", DeviceSettings)):
        lines = (ROOT / f"packaging/config/{name}.toml").read_text().splitlines()
        kept = [line.removeprefix("#") for line in lines if not line.startswith("# ") and "url" not in line]
        (tmp_path / f"{name}.toml").write_text("\n".join(kept))
        settings.load(tmp_path / f"{name}.toml")
