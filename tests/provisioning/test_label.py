"""What is written for a board: readable, scannable, harmless."""

from __future__ import annotations

from pathlib import Path

import pytest
import segno

from argosy_common.errors import StorageFailed
from argosy_provisioning import label, terminal
from argosy_provisioning.batch import Place
from argosy_provisioning.label import LabelFolder
from argosy_provisioning.station import Enrolled

BOARD = Enrolled(
    device="65a67278f8451c2d",
    site="lab",
    name="kitchen\x1b[2J\nsink",
    model="Raspberry Pi 5",
    url="https://c:8444",
    operator=None,
    already=False,
)


def test_a_label_says_what_a_person_looks_for_on_five_lines() -> None:
    lines = label.text(BOARD).splitlines()
    assert [line.split()[0] for line in lines] == ["name", "device", "site", "board", "coordinator"]
    assert "65a6 7278 f845 1c2d" in lines[1]
    assert "\x1b" not in lines[0]


def test_the_code_says_the_device(tmp_path: Path) -> None:
    assert label.content(BOARD) == "argosy:device:65a67278f8451c2d"
    text, svg, png = LabelFolder(tmp_path / "labels").prepare().write(BOARD)
    assert [path.name for path in (text, svg, png)] == [f"{BOARD.device}.{kind}" for kind in ("txt", "svg", "png")]
    width = segno.make(label.content(BOARD), error="q", micro=False).symbol_size(scale=8)[0]
    assert f'width="{width}"' in svg.read_text()
    assert int.from_bytes(png.read_bytes()[16:20]) == width


def test_a_folder_that_cannot_be_made_is_named_before_anything_happens(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageFailed, match="file"):
        LabelFolder(tmp_path / "file").prepare()


def test_what_a_board_tells_gives_no_orders_to_the_terminal() -> None:
    place = Place("/dev/ttyUSB0", board="\x1b]0;evil\x07", enrolled=BOARD)
    cells = [str(cell) for column in terminal.bench([place]).columns for cell in column.cells]
    assert "\x1b" not in "".join(cells)
    assert "\x07" not in "".join(cells)
