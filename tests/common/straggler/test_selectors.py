"""Selectors by name, ours and those of other packages."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from argosy_common.errors import SelectorUnknown
from argosy_common.straggler.selection import Random, Ready
from argosy_common.straggler.selectors import OURS, get_selector, known

ROOT = Path(__file__).parents[3]

THIRD_PARTY = """
from argosy_common.straggler.selection import Choice

class Nobody:
    def __init__(self, *, hear_every):
        self.hear_every = hear_every

    def choose(self, candidates, wanted, rng):
        return Choice(())
"""

ENTRY_POINTS = """[argosy.selectors]
nobody = nobody_selector:Nobody
broken = no_such_module:Selector
raises = raising_selector:Selector
plain = json:JSONDecoder
none = json:dumps
ready = nobody_selector:Nobody
"""

ASK = """
import json, sys
from argosy_common.errors import SelectorUnknown
from argosy_common.straggler.selectors import get_selector, known
told = {"known": known(), "imported": [name for name in ("nobody_selector", "raising_selector") if name in sys.modules]}
for name in ("nobody", "broken", "raises", "plain", "none", "ready"):
    try:
        made = get_selector(name, hear_every=7)
        told[name] = [type(made).__module__, made.hear_every]
    except SelectorUnknown as error:
        told[name] = f"{error.message} {error.remedy_text}"
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What a process says in whose path a distribution lies that declares selectors, good ones and others."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "nobody_selector.py").write_text(THIRD_PARTY)
    (folder / "raising_selector.py").write_text("raise RuntimeError('no licence')")
    metadata = folder / "nobody_selector-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: nobody-selector\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    code = f"import sys; sys.path.insert(0, {str(folder)!r})\n{ASK}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def test_ours_are_had_by_name() -> None:
    assert get_selector("random", hear_every=3) == Random(3)
    assert get_selector("ready", hear_every=4) == Ready(hear_every=4)


def test_a_package_adds_a_selector_by_its_entry_point(told: dict[str, object]) -> None:
    assert told["nobody"] == ["nobody_selector", 7]


def test_a_package_that_does_not_work_is_imported_only_when_it_is_asked_for(told: dict[str, object]) -> None:
    assert told["known"] == [*known(), "broken", "nobody", "none", "plain", "raises"]
    assert told["imported"] == []


@pytest.mark.parametrize(
    ("name", "why"),
    [("broken", "no_such_module"), ("raises", "RuntimeError: no licence"), ("plain", "hear_every"), ("none", "dumps")],
)
def test_a_package_that_does_not_work_is_named_with_why(told: dict[str, object], name: str, why: str) -> None:
    said = str(told[name])
    assert f"the package that brings {name} fails" in said
    assert why in said
    assert "random, ready" in said


def test_a_package_cannot_take_the_place_of_one_of_ours(told: dict[str, object]) -> None:
    assert told["ready"] == ["argosy_common.straggler.selection", 7]


def test_the_table_and_the_entry_points_say_the_same() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["argosy.selectors"]
    assert declared == {name: f"{made.__module__}:{made.__name__}" for name, made in OURS.items()}


@pytest.mark.parametrize("name", ["", "fastest", "READY", "ready:2"])
def test_an_unknown_name_is_told_with_what_there_is(name: str) -> None:
    with pytest.raises(SelectorUnknown) as caught:
        get_selector(name, hear_every=0)
    assert caught.value.remedy_text == "Known are: random, ready."
