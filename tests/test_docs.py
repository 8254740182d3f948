"""The pages that tell of the code are complete, and what they link to is there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from argosy_client.check.checks import CHECKS
from argosy_client.settings import DeviceSettings
from argosy_common.wire.bodies import KINDS
from argosy_server.settings import CoordinatorSettings
from docs.state_machines import page

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]

_CODE_BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def rows_of(page_name: str, section: str) -> dict[str, list[str]]:
    """Return a section's table rows by the code in their first cell; each row as its other cells."""
    text = (DOCS / page_name).read_text()
    body = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    assert body, f"docs/{page_name} has no section '{section}'"
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines() if line[:3] == "| `"]
    return {first.strip("`"): others for first, *others in rows}


def settings_of(table: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield the dotted name and the default of every setting; the default is undefined where the machine decides."""
    for name, field in table.model_fields.items():
        if isinstance(field.default, BaseModel):
            yield from settings_of(type(field.default), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.default


def shown(default: object) -> str:
    """Return a default as a settings table shows it."""
    if default is None:
        return "–"
    if isinstance(default, float) and default.is_integer():
        default = int(default)
    return str(default) if isinstance(default, str | Path) else json.dumps(default)


def anchors(path: Path) -> set[str]:
    """Return the fragments that a page's headings can be linked by, as forges make them."""
    headings = _HEADING.findall(_CODE_BLOCK.sub("", path.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_state_machines_are_up_to_date() -> None:
    assert (DOCS / "state-machines.md").read_text() == page(), "run `make docs`"


def test_every_kind_of_message_has_a_row_in_the_protocol() -> None:
    assert set(rows_of("protocol.md", "Kinds")) == set(KINDS)


def test_every_problem_of_a_board_has_a_row_in_the_operators_guide() -> None:
    """With its check, its severity and its words; what is filled in stands there in italics."""
    problems = {
        problem.code: [
            check.name,
            str(problem.severity),
            *(re.sub(r"\{(\w+)\}", r"*\1*", words) for words in (problem.text, problem.remedy)),
        ]
        for check in CHECKS
        for problem in check.problems
    }
    assert rows_of("operating.md", "Checking a board") == problems


@pytest.mark.parametrize(
    ("settings", "section"), [(CoordinatorSettings, "Coordinator settings"), (DeviceSettings, "Device settings")]
)
def test_every_setting_has_a_row_with_its_default_in_the_operators_guide(
    settings: type[BaseModel], section: str
) -> None:
    rows = rows_of("operating.md", section)
    known = dict(settings_of(settings))
    assert set(rows) == set(known)
    for name, default in known.items():
        if default is not PydanticUndefined:
            assert shown(default) == rows[name][0].strip("`"), f"the default of {name} has changed"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for link in _LINK.findall(_CODE_BLOCK.sub("", path.read_text())):
        if "://" in link or link.startswith("mailto:"):
            continue
        file, _, fragment = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{path.name} links to {link}, which is not there"
        assert not fragment or fragment in anchors(target), f"{path.name} links to {link}: no such heading"
