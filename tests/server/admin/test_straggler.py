"""Stragglers on the command line: what is asked for, what is refused, what is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from argosy_common.errors import AdminRequestInvalid, ArgosyError, AsyncUnsuitable, RunConfigInvalid, SelectorUnknown
from argosy_common.run_settings import SecureSettings, StragglerSettings
from argosy_server.api.server import AdminServer
from argosy_server.cli.client import AdminClient
from argosy_server.cli.straggler import straggler_request
from argosy_server.cli.words import straggler_text
from tests.server.admin.conftest import Argosy
from tests.server.admin.coordinator_on_rows import RowsCoordinator
from tests.server.admin.test_cli import APP

BUNDLE = "0" * 64


def request(table: dict[str, Any], **said: Any) -> dict[str, Any]:  # noqa: ANN401  (of `straggler_request`)
    nothing = dict.fromkeys(("straggler", "quorum", "deadline", "over_select", "selector", "asynchronous"))
    return straggler_request(table, **{**nothing, **said}, secure=SecureSettings())


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(APP)
    (tmp_path / "app.py").write_text("client = server = None")
    return tmp_path


def test_flags_reach_the_coordinator(
    argosy: Argosy, server: AdminServer, coordinator: RowsCoordinator, app: Path
) -> None:
    flags = ["--quorum", "16", "--deadline", "30", "--over-select", "0.25", "--selector", "ready"]
    done = argosy("run", "start", str(app), *flags)
    assert done.returncode == 0, done.stderr
    told = coordinator.store.runs.get(1).options["straggler"]
    expected = {"enabled": True, "quorum": 16, "deadline": 30.0, "over_select": 0.25, "selector": "ready"}
    assert {name: told[name] for name in expected} == expected
    assert "Rounds end after 30 s, once 16 devices have answered." in done.stderr


def test_a_share_of_one_is_all_of_them_and_not_one_device(
    argosy: Argosy, server: AdminServer, coordinator: RowsCoordinator, app: Path
) -> None:
    for number, (flag, expected) in enumerate((("1.0", 1.0), ("1", 1)), 1):
        assert argosy("run", "start", str(app), "--quorum", flag).returncode == 0
        told = coordinator.store.runs.get(number).options["straggler"]["quorum"]
        assert (told, type(told)) == (expected, type(expected))


def test_what_the_app_says_stays_as_it_is_but_for_what_the_command_says() -> None:
    table = {"straggler": {"quorum": 0.9, "mode": "async"}}
    for said, enabled, asynchronous in (
        ({}, True, True),
        ({"straggler": False}, False, False),
        ({"asynchronous": False}, True, False),
    ):
        settings = StragglerSettings.from_table(table).overridden(request(table, **said))
        assert (settings.enabled, settings.asynchronous, settings.quorum) == (enabled, asynchronous, 0.9)


def test_no_async_alone_switches_nothing_on() -> None:
    assert not StragglerSettings.from_table({}).overridden(request({}, asynchronous=False)).enabled


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--quorum", "most"], (RunConfigInvalid, "straggler.quorum")),
        (["--quorum", "1.2"], (RunConfigInvalid, "0.0 to 1.0")),
        (["--deadline", "-3"], (RunConfigInvalid, "number of seconds")),
        (["--over-select", "nan"], (RunConfigInvalid, "straggler.over_select")),
        (["--selector", "fastest"], (SelectorUnknown, "random")),
        (["--async", "--secure"], (AsyncUnsuitable, "secure aggregation")),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_sent(
    argosy: Argosy, app: Path, flags: list[str], expected: tuple[type[ArgosyError], str]
) -> None:  # nobody listens at the socket, and that is not what is told
    error, told = expected
    done = argosy("run", "start", str(app), *flags)
    assert done.returncode == error.exit_code, done.stderr
    assert told in " ".join(done.stderr.split())


@pytest.mark.parametrize("straggler", [{"quorum": [1]}, {"quorum": None}, 3, {"a" * 300: 1}])
def test_the_api_refuses_what_is_no_request(api: AdminClient, straggler: object) -> None:
    with pytest.raises(AdminRequestInvalid):
        api.post("/runs", {"bundle": BUNDLE, "size": 1, "straggler": straggler})


def test_help_shows_how(argosy: Argosy) -> None:
    told = " ".join(argosy("run", "start", "--help", COLUMNS="120").stdout.split())
    for words in ("--straggler", "--quorum", "--async", "run start examples/har --straggler"):
        assert words in told


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "Rounds end on time, by what devices of this run take, once 80% of those wanted have answered."),
        ({"deadline": 2.5}, "Rounds end after 2.5 s, once 80% of those wanted have answered."),
        ({"mode": "async"}, "No rounds: 10 updates make a step, the older the lighter."),
    ],
)
def test_what_is_told_at_the_start(settings: dict[str, object], told: str) -> None:
    made = StragglerSettings.from_table({"straggler": {"enabled": True, **settings}})
    assert straggler_text(made.to_wire()) == told


def test_show_tells_it(argosy: Argosy, server: AdminServer, app: Path) -> None:
    assert argosy("run", "start", str(app), "--straggler").returncode == 0
    assert "Rounds end on time" in " ".join(argosy("run", "show", "1", COLUMNS="120").stdout.split())
