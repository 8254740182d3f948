"""The error tree: codes are unique, every error tells what happened and what to do, and the page is made from it."""

from __future__ import annotations

import string
from pathlib import Path

import pytest

from argosy_common import errors
from argosy_common.errors import REGISTRY, ArgosyError, Fault, PortInUse, error_from_wire
from argosy_common.errors.__main__ import page

ALL = sorted(REGISTRY.values(), key=lambda error: error.code)
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("error", ALL, ids=lambda error: error.code)
def test_an_error_survives_the_wire(error: type[ArgosyError]) -> None:
    made = error(**{name: f"<{name}>" for name in error.fields()})
    back = error_from_wire(made.to_wire())
    assert type(back) is error
    assert back.message == made.message
    assert back.remedy_text == made.remedy_text


@pytest.mark.parametrize("error", ALL, ids=lambda error: error.code)
def test_an_error_can_be_told_without_its_facts(error: type[ArgosyError]) -> None:
    made = error()
    assert made.message
    assert made.remedy_text


@pytest.mark.parametrize("error", ALL, ids=lambda error: error.code)
def test_an_error_is_exported_and_well_formed(error: type[ArgosyError]) -> None:
    assert getattr(errors, error.__name__) is error
    assert set(error.code) <= set(string.ascii_lowercase + string.digits + "-")
    assert 10 <= error.exit_code <= 125, "a shell gives 126 and more a meaning of its own"
    assert error.template.endswith(".")
    assert error.__doc__


def test_a_taken_code_is_refused() -> None:
    with pytest.raises(TypeError, match="is taken"):
        type("Copy", (ArgosyError,), {"code": PortInUse.code, "exit_code": 98, "fault": Fault.BUG})
    with pytest.raises(TypeError, match="is taken"):
        type("Copy", (ArgosyError,), {"code": "brand-new", "exit_code": PortInUse.exit_code, "fault": Fault.BUG})
    assert "brand-new" not in REGISTRY


def test_an_error_of_a_newer_peer_is_quoted() -> None:
    assert "warp-failed: no dilithium" in error_from_wire({"code": "warp-failed", "message": "no dilithium"}).message


@pytest.mark.parametrize("data", [{}, {"code": 5}, {"code": "port-in-use", "facts": 3}, {"code": "x", "facts": []}])
def test_rubbish_from_a_peer_still_becomes_an_error(data: dict[str, object]) -> None:
    assert isinstance(error_from_wire(data), ArgosyError)


def test_the_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "errors.md").read_text() == page(), "run `make docs`"
