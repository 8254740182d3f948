"""Vital signs, read from a board made of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from argosy_client.telemetry import Telemetry, Vitals


def board(root: Path, files: dict[str, str]) -> Telemetry:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Telemetry(root)


PI = {
    "proc/loadavg": "2.00 1.00 0.50 1/200 4711\n",
    "proc/meminfo": "MemTotal:        8000000 kB\nMemFree:          100000 kB\nMemAvailable:    6000000 kB\n",
    "proc/self/status": "Name:\tpython3\nVmRSS:\t   51200 kB\n",
    "sys/devices/system/cpu/online": "0-3\n",
    "sys/class/thermal/thermal_zone0/temp": "48312\n",
    "sys/class/thermal/thermal_zone1/temp": "51000\n",
}


def test_a_board_that_can_be_read(tmp_path: Path) -> None:
    assert board(tmp_path, PI).read() == Vitals(
        load=0.5, memory_used=2_048_000_000, memory_total=8_192_000_000, temperature=51.0, rss=52_428_800
    )


def test_a_board_that_shows_nothing(tmp_path: Path) -> None:
    assert board(tmp_path, {}).read() == Vitals(None, None, None, None, None)


@pytest.mark.parametrize(
    ("name", "text", "field"),
    [
        ("proc/loadavg", "", "load"),
        ("proc/loadavg", "what? 1 2", "load"),
        ("proc/meminfo", "MemTotal: lots kB\n", "memory_total"),
        ("proc/meminfo", "MemTotal:        8000000 kB\n", "memory_used"),
        ("proc/self/status", "VmRSS: \n", "rss"),
        ("sys/class/thermal/thermal_zone0/temp", "-273150\n", "temperature"),
        ("sys/class/thermal/thermal_zone0/temp", "\xff\xfe", "temperature"),
    ],
)
def test_what_makes_no_sense_is_left_out(tmp_path: Path, name: str, text: str, field: str) -> None:
    files = {**PI, name: text}
    del files["sys/class/thermal/thermal_zone1/temp"]
    assert getattr(board(tmp_path, files).read(), field) is None


def test_cores_are_those_online(tmp_path: Path) -> None:
    vitals = board(tmp_path, {**PI, "sys/devices/system/cpu/online": "0,2-3,6\n"}).read()
    assert vitals.load == 0.5


def test_this_machine_has_memory_and_load() -> None:
    vitals = Telemetry().read()
    assert vitals.load is not None
    assert vitals.memory_used is not None
    assert vitals.rss is not None
    assert vitals.memory_total is not None
    assert 0 < vitals.memory_used < vitals.memory_total
    assert 0 < vitals.rss < vitals.memory_total
