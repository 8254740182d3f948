"""The systemd units: systemd takes them, and finds little to say against what they allow."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "packaging" / "systemd"
DAEMONS = ("argosy-coordinator", "argosy-device")
NEWER = re.compile(r"Unknown key '(RestartSteps|RestartMaxDelaySec)'")
"""What systemd before 254 says of the growing pauses, and does without."""


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["systemd-analyze", *words],  # noqa: S607  (wherever the distribution has it)
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("systemd-analyze is not installed here: apt install systemd")


@pytest.fixture(params=DAEMONS)
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A daemon's unit, with a program that is there."""
    text = (UNITS / f"{request.param}.service").read_text()
    path = tmp_path / f"{request.param}.service"
    path.write_text(text.replace(f"/usr/bin/{request.param}", "/bin/true"))
    return path


def test_systemd_takes_the_unit(unit: Path) -> None:
    done = analyze("verify", str(unit))
    objections = [line for line in done.stderr.splitlines() if unit.name in line and not NEWER.search(line)]
    assert (done.returncode, objections) == (0, [])


def test_the_unit_allows_little(unit: Path) -> None:
    done = analyze("security", "--offline=yes", "--threshold=20", str(unit))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("kind", ["path", "service"])
def test_systemd_takes_what_upgrades_the_packages(kind: str, tmp_path: Path) -> None:
    for each in ("path", "service"):
        text = (UNITS / f"argosy-device-upgrade.{each}").read_text()
        (tmp_path / f"argosy-device-upgrade.{each}").write_text(
            text.replace("/usr/lib/argosy/bin/python3", "/bin/true")
        )
    done = analyze("verify", str(tmp_path / f"argosy-device-upgrade.{kind}"))
    assert (done.returncode, [line for line in done.stderr.splitlines() if "argosy" in line]) == (0, [])


@pytest.mark.parametrize("drop_in", sorted((UNITS / "hardware").iterdir()), ids=lambda path: path.stem)
def test_systemd_takes_what_opens_the_hardware(drop_in: Path, tmp_path: Path) -> None:
    unit = tmp_path / "argosy-device.service"
    unit.write_text((UNITS / unit.name).read_text().replace("/usr/bin/argosy-device", "/bin/true"))
    folder = tmp_path / "argosy-device.service.d"
    folder.mkdir()
    (folder / drop_in.name).write_text(drop_in.read_text())
    done = analyze("verify", str(unit))
    assert (done.returncode, [line for line in done.stderr.splitlines() if drop_in.name in line]) == (0, [])


def test_a_device_may_train_with_torch() -> None:
    settings = (UNITS / "argosy-device.service").read_text()
    assert "\nMemoryDenyWriteExecute=" not in settings
    assert "~@resources" not in settings
    assert "\nProcSubset=" not in settings
