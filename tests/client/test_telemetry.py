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
    "sys/devices/platform/soc/soc:firmware/get_throttled": "0\n",
}


def test_a_board_that_can_be_read(tmp_path: Path) -> None:
    assert board(tmp_path, PI).read() == Vitals(
        load=0.5,
        memory_used=2_048_000_000,
        memory_total=8_192_000_000,
        temperature=51.0,
        rss=52_428_800,
        battery=None,
        on_mains=None,
        throttled=False,
    )


def test_a_board_that_shows_nothing(tmp_path: Path) -> None:
    assert board(tmp_path, {}).read() == Vitals(None, None, None, None, None, None, None, None)


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
        ("sys/class/thermal/thermal_zone0/temp", "nan", "temperature"),
        ("proc/loadavg", "inf 1 2", "load"),
        ("sys/devices/platform/soc/soc:firmware/get_throttled", "what?", "throttled"),
        ("sys/devices/platform/soc/soc:firmware/get_throttled", "-1", "throttled"),
        ("sys/devices/platform/soc/soc:firmware/get_throttled", "", "throttled"),
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


SUPPLY = "sys/class/power_supply"
BATTERY = {f"{SUPPLY}/BAT0/type": "Battery\n", f"{SUPPLY}/BAT0/capacity": "87\n", f"{SUPPLY}/BAT0/status": "Charging\n"}
MAINS = {f"{SUPPLY}/AC/type": "Mains\n", f"{SUPPLY}/AC/online": "1\n"}


def power(root: Path, *files: dict[str, str]) -> tuple[float | None, bool | None]:
    vitals = board(root, {name: text for each in files for name, text in each.items()}).read()
    return vitals.battery, vitals.on_mains


def test_a_battery_and_how_full_it_is(tmp_path: Path) -> None:
    assert power(tmp_path, BATTERY, MAINS) == (0.87, True)


def test_of_several_batteries_the_mean_counts(tmp_path: Path) -> None:
    second = {name.replace("BAT0", "BAT1"): text for name, text in BATTERY.items()}
    level, _ = power(tmp_path, BATTERY, second, {f"{SUPPLY}/BAT1/capacity": "13\n"})
    assert level == pytest.approx(0.5)


@pytest.mark.parametrize("text", ["", "full", "-1", "101", "nan"])
def test_a_capacity_that_makes_no_sense_is_not_known(tmp_path: Path, text: str) -> None:
    assert power(tmp_path, BATTERY, {f"{SUPPLY}/BAT0/capacity": text}) == (None, True)


@pytest.mark.parametrize(
    ("status", "on_mains"),
    [("Charging", True), ("Full", True), ("Discharging", False), ("Not charging", None), ("Unknown", None), ("", None)],
)
def test_a_battery_alone_tells_by_its_status_whether_there_is_power(
    tmp_path: Path, status: str, on_mains: bool | None
) -> None:
    assert power(tmp_path, BATTERY, {f"{SUPPLY}/BAT0/status": status}) == (0.87, on_mains)


@pytest.mark.parametrize(
    ("kind", "online", "on_mains"),
    [
        ("Mains", "1", True),
        ("USB", "1", True),
        ("USB_PD", "2", True),
        ("Mains", "0", False),
        ("USB_C", "0", False),
        ("Mains", "", None),
        ("Wireless", "0", None),
    ],
)
def test_a_supply_from_outside_tells_whether_there_is_power(
    tmp_path: Path, kind: str, online: str, on_mains: bool | None
) -> None:
    files = {f"{SUPPLY}/AC/type": f"{kind}\n", f"{SUPPLY}/AC/online": f"{online}\n"}
    assert power(tmp_path, files) == (None, on_mains)


def test_one_supply_that_is_on_is_enough(tmp_path: Path) -> None:
    second = {f"{SUPPLY}/usb/type": "USB\n", f"{SUPPLY}/usb/online": "0\n"}
    assert power(tmp_path, BATTERY, MAINS, second, {f"{SUPPLY}/BAT0/status": "Discharging"}) == (0.87, True)


def test_the_battery_of_a_mouse_is_not_the_boards(tmp_path: Path) -> None:
    assert power(tmp_path, BATTERY, {f"{SUPPLY}/BAT0/scope": "Device\n"}) == (None, None)


@pytest.mark.parametrize(
    ("text", "throttled"),
    [("0", False), ("50005\n", True), ("50000\n", False), ("8", True), ("0x4", True), ("F0000", False)],
)
def test_a_raspberry_pi_tells_what_holds_it_back_now(tmp_path: Path, text: str, throttled: bool) -> None:
    files = {"sys/devices/platform/soc/soc:firmware/get_throttled": text}
    assert board(tmp_path, files).read().throttled is throttled


@pytest.mark.parametrize(
    ("limits", "throttled"),
    [
        ([("1800000", "1800000")], False),
        ([("1800000", "1800000"), ("1200000", "2000000")], True),
        ([("", "1800000")], None),
        ([("soon", "1800000"), ("1800000", "1800000")], False),
    ],
)
def test_elsewhere_a_processor_that_may_not_do_what_it_can_is_throttled(
    tmp_path: Path, limits: list[tuple[str, str]], throttled: bool | None
) -> None:
    files: dict[str, str] = {}
    for number, (allowed, able) in enumerate(limits):
        policy = f"sys/devices/system/cpu/cpufreq/policy{number}"
        files |= {f"{policy}/scaling_max_freq": allowed, f"{policy}/cpuinfo_max_freq": able}
    assert board(tmp_path, files).read().throttled is throttled


def test_folders_that_are_files_and_files_that_are_folders_are_no_fault(tmp_path: Path) -> None:
    files = {"sys/class/power_supply": "?", "sys/devices/system/cpu/cpufreq": "?", "proc/loadavg/folder": ""}
    vitals = board(tmp_path, files).read()
    assert (vitals.load, vitals.battery, vitals.on_mains, vitals.throttled) == (None, None, None, None)
