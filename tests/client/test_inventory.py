"""What a board is, read from boards made of files."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from argosy_client.inventory import LONGEST, Inventory, installed_version, serial_number, take_inventory
from argosy_common.enrolment import EnrolRequest
from tests.client.boards import JETSON, PI_4, PI_5, X86, Files, put_board


def taken(root: Path, *files: Files, torch: str = "") -> Inventory:
    return take_inventory(put_board(root, *files), installed={"torch": torch}.__getitem__)


def test_a_raspberry_pi_4_with_a_coral_stick(tmp_path: Path) -> None:
    facts = taken(tmp_path, PI_4, torch="2.9.1").facts()
    assert {name: value for name, value in facts.items() if name not in {"machine", "python", "version"}} == {
        "model": "Raspberry Pi 4 Model B Rev 1.4",
        "serial": "10000000a1b2c3d4",
        "cpu": "Cortex-A72",
        "cores": 4,
        "memory": 3_977_580_544,
        "os": "Debian GNU/Linux 12 (bookworm)",
        "kernel": "6.6.31+rpt-rpi-v8",
        "torch": "2.9.1",
        "accelerators": "gpu (/dev/dri/renderD128), coral-usb",
    }


def test_a_raspberry_pi_5_with_a_hailo(tmp_path: Path) -> None:
    found = taken(tmp_path, PI_5)
    assert (found.model, found.cpu, found.power) == ("Raspberry Pi 5 Model B Rev 1.0", "Cortex-A76", ("pi5-pmic",))
    assert found.facts()["accelerators"] == "hailo (/dev/hailo0), gpu (/dev/dri/renderD128)"
    assert "torch" not in found.facts()


def test_a_jetson_orin(tmp_path: Path) -> None:
    found = taken(tmp_path, JETSON)
    assert (found.model, found.serial) == ("NVIDIA Jetson Orin Nano Developer Kit", "1422323034567")
    assert (found.cpu, found.cores, found.l4t, found.power) == ("Cortex-A78AE", 6, "36.3.0", ("ina3221",))
    assert found.facts()["accelerators"] == "jetson (/dev/nvhost-gpu)", "the GPU's two nodes are one accelerator"


def test_boards_without_a_serial_number_are_told_apart_by_their_machine_id(tmp_path: Path) -> None:
    assert serial_number(tmp_path) == ""
    put_board(tmp_path, {"etc/machine-id": "b" * 32})
    assert re.fullmatch("machine-[0-9a-f]{16}", serial_number(tmp_path))
    put_board(tmp_path, {"proc/cpuinfo": "processor : 0\nSerial\t\t: 1000a1\n"})
    assert serial_number(tmp_path) == "1000a1" == take_inventory(tmp_path).serial


def test_an_x86_box_is_known_by_a_digest_of_its_machine_id(tmp_path: Path) -> None:
    found = taken(tmp_path / "a", X86)
    assert (found.model, found.cpu, found.cores) == ("ACME Box 3000", "Intel(R) N100", 2)
    assert (found.l4t, found.power) == ("", ("rapl",))
    assert found.facts()["accelerators"] == "nvidia (/dev/nvidia0), coral (/dev/apex_0)"
    assert found.serial.startswith("machine-")
    assert "0123456789" not in found.serial
    assert found.serial == taken(tmp_path / "b", {"etc/machine-id": X86["etc/machine-id"]}).serial
    by_firmware = taken(tmp_path / "c", {name: text for name, text in X86.items() if name != "etc/machine-id"})
    assert by_firmware.serial.startswith("machine-")
    assert by_firmware.serial != found.serial


def test_a_board_that_shows_nothing_still_tells_of_its_software(tmp_path: Path) -> None:
    assert set(taken(tmp_path).facts()) == {"machine", "python", "version"}


@pytest.mark.parametrize("text", ["", "\0", "\x1b[2J\n", "0" * 16, "�" * 5000, "MemTotal: lots kB\n# R (release)"])
@pytest.mark.parametrize("board", [PI_4, JETSON, X86], ids=["pi", "jetson", "x86"])
def test_garbage_in_every_file_is_no_fault_and_fits_into_a_request(tmp_path: Path, board: Files, text: str) -> None:
    facts = taken(tmp_path, dict.fromkeys(board, text)).facts()
    for value in facts.values():
        assert not isinstance(value, str) or (value.isprintable() and len(value) <= LONGEST)
    assert "serial" not in facts or str(facts["serial"]).strip("0")
    pem = "x"
    request = EnrolRequest(token="t", csr_pem=pem, identity_public_pem=pem, identity_signature="00", inventory=facts)
    assert EnrolRequest.model_validate_json(request.model_dump_json()).inventory == facts


def test_bytes_that_are_no_text_and_folders_in_place_of_files_are_no_fault(tmp_path: Path) -> None:
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_bytes(b"Board \xff\xfe one\0")
    for name in ("proc/cpuinfo", "etc/machine-id", "sys/bus/usb/devices/1-1/idVendor"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "dev").write_text("no folder")
    found = taken(tmp_path)
    assert found.model == "Board \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER} one"
    assert (found.serial, found.cores, found.accelerators) == ("", 0, ())


def test_the_words_of_a_maker_who_filled_in_nothing_are_left_out(tmp_path: Path) -> None:
    dmi = {"sys_vendor": "To Be Filled By O.E.M.", "product_name": "N100-PLUS"}
    assert taken(tmp_path, {f"sys/class/dmi/id/{name}": text for name, text in dmi.items()}).model == "N100-PLUS"


def test_a_file_that_never_ends_is_not_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").symlink_to("/dev/zero")
    assert taken(tmp_path).memory == 0


def test_this_machine_can_be_read_and_torch_is_not_imported_for_it() -> None:
    found = take_inventory()
    assert found.cores == os.cpu_count() or found.cores == 0
    assert found.memory > 0
    assert installed_version("pydantic")
    assert installed_version("no-such-package") == ""
