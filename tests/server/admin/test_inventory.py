"""A board's inventory as `argosy device show` tells it."""

from __future__ import annotations

from argosy_server.cli.inventory import inventory_rows


def shown(**facts: object) -> dict[str, str]:
    return {name: value for name, value in inventory_rows(facts) if value}


def test_an_inventory_is_one_line_a_subject() -> None:
    assert shown(
        machine="aarch64",
        version="0.1.0",
        python="3.11.2",
        torch="2.9.1",
        model="Raspberry Pi 5 Model B Rev 1.0",
        serial="5fa1c3e2d4b60718",
        cpu="Cortex-A76",
        cores=4,
        memory=8_455_168_000,
        os="Debian GNU/Linux 12 (bookworm)",
        kernel="6.6.31",
        accelerators="hailo (/dev/hailo0)",
        power="pi5-pmic",
    ) == {
        "board": "Raspberry Pi 5 Model B Rev 1.0, serial 5fa1c3e2d4b60718",
        "processor": "Cortex-A76 × 4",
        "ram": "8.46 GB",
        "system": "Debian GNU/Linux 12 (bookworm), Linux 6.6.31",
        "software": "Python 3.11.2, torch 2.9.1",
        "accelerators": "hailo (/dev/hailo0)",
        "power sensors": "pi5-pmic",
    }


def test_what_is_not_known_has_no_line_and_what_is_new_is_shown_as_it_is() -> None:
    assert shown() == {}
    assert shown(npu="two", model="Box", memory="much") == {"board": "Box", "npu": "two"}


def test_a_board_cannot_give_the_terminal_orders() -> None:
    assert "\x1b" not in "".join(shown(**{"model": "\x1b[2J", "\x1b[2J": "\x1b[2J"}))
    assert "\x1b" not in "".join(shown(**{"model": "\x1b[2J", "\x1b[2J": "\x1b[2J"}).values())
