"""Upgrades of the devices' packages by admin API and command line; the boards are rows, and answer when told."""

from __future__ import annotations

import json

import pytest

from argosy_common.errors import AdminRequestInvalid, RolloutNotFound, UpgradeNotFound, UpgradeUnsuitable
from argosy_common.wire.bodies import ErrorPart, Upgrade, UpgradeState
from argosy_common.wire.envelope import Envelope
from argosy_server.api.server import AdminServer
from argosy_server.cli.client import AdminClient
from tests.server.admin.conftest import Argosy
from tests.server.admin.coordinator_on_rows import RowsCoordinator

ENVELOPE = Envelope(kind="upgrade-state")
ERROR = ErrorPart(code="upgrade-failed", message="The board went back \x1b[31mfrom it.")


@pytest.fixture
def fleet(coordinator: RowsCoordinator, server: AdminServer) -> RowsCoordinator:
    """The coordinator, with its API up."""
    return coordinator


def answer(fleet: RowsCoordinator, state: str = "active", running: str = "0.2.0") -> list[Upgrade]:
    """Have the boards answer what they were sent, and the coordinator decide; return what they were sent."""
    sent, fleet.sent = fleet.sent, []
    bodies = []
    for device, body in sent:
        assert isinstance(body, Upgrade)
        error = ERROR if state in ("rolled-back", "refused") else None
        told = {"rollout": body.rollout, "version": body.version, "state": state, "running": running, "error": error}
        fleet.upgrades.take(device, ENVELOPE, UpgradeState.model_validate(told))
        bodies.append(body)
    fleet.upgrades.tick()
    return bodies


def test_an_upgrade_is_started_shown_paused_resumed_and_stopped(
    fleet: RowsCoordinator, api: AdminClient, argosy: Argosy
) -> None:
    done = argosy("device", "upgrade", "0.2.0", "--hold", "1h", "--max-errors", "5%")
    assert done.stdout == "Upgrade 1 to 0.2.0 begins.\n", done.stderr
    assert answer(fleet) == [Upgrade(rollout=1, version="0.2.0")]
    shown = argosy("device", "upgrade-status").stdout
    for text in ("[5%] 25% 100%", "1 active of 1", "ring 5% lasts another", "0.2.0"):
        assert text in shown
    assert argosy("device", "upgrade-pause").returncode == 0
    done = argosy("device", "upgrade-pause", "1")
    assert (done.returncode, "[upgrade-state-forbids]" in done.stderr) == (125, True)
    assert json.loads(argosy("device", "upgrade-resume", "--json").stdout)["state"] == "running"
    done = argosy("device", "upgrade", "0.3.0")
    assert (done.returncode, "[upgrade-under-way]" in done.stderr) == (125, True)
    done = argosy("device", "upgrade-stop", "--yes")
    assert done.stdout == "The devices go back to what they had before.\n", done.stderr
    assert answer(fleet, "rolled-back", "0.1.0") == [Upgrade(rollout=1, version="0.2.0", back=True)]
    rows = json.loads(argosy("device", "upgrades", "--json").stdout)
    assert [(row["version"], row["state"], row["rings"][0]["max_errors"]) for row in rows] == [
        ("0.2.0", "rolled-back", 0.05)
    ]
    audited = [(it.action, it.subject) for it in fleet.store.audit.tail() if it.actor.startswith("user:")]
    assert audited == [(f"upgrade.{verb}", "argosy-device=0.2.0") for verb in ("rollout", "pause", "resume", "stop")]


def test_a_watched_upgrade_that_fails_ends_with_an_error(fleet: RowsCoordinator, argosy: Argosy) -> None:
    argosy("device", "upgrade", "0.2.0", "--rings", "100%", "--hold", "0s")
    answer(fleet, "rolled-back", "0.1.0")
    answer(fleet, "rolled-back", "0.1.0")
    fleet.upgrades.tick()
    done = argosy("device", "upgrade-status", "--watch", "--json")
    assert json.loads(done.stdout.splitlines()[-1])["state"] == "rolled-back"
    assert (done.returncode, "[upgrade-rolled-back]" in done.stderr) == (125, True)
    shown = argosy("device", "upgrade-status").stdout
    assert "The board went back" in shown
    assert "\x1b[31m" not in shown, "a board gives a terminal no orders"
    assert "0.2.0" in argosy("device", "upgrades").stdout


def test_models_and_packages_do_not_see_each_other(fleet: RowsCoordinator, api: AdminClient, argosy: Argosy) -> None:
    argosy("device", "upgrade", "0.2.0")
    assert api.get("/rollouts")["rollouts"] == []
    with pytest.raises(RolloutNotFound):
        api.get("/rollouts/1")
    with pytest.raises(UpgradeNotFound):
        api.get("/upgrades/2")


def test_one_who_was_at_it_when_it_was_stopped_is_not_taken_for_back(fleet: RowsCoordinator, api: AdminClient) -> None:
    api.post("/upgrades", {"version": "0.2.0", "rings": [{"share": 1.0}]})
    answer(fleet, "fetching", "0.1.0")
    assert api.post("/upgrades/1/stop")["state"] == "rolling-back"
    assert answer(fleet, "fetching", "0.2.0")[0].back
    assert api.get("/upgrades/1")["state"] == "rolling-back"


@pytest.mark.parametrize("version", ["--option", "1;rm", "../1", "argosy-device", "1=2", ""])
def test_what_is_no_version_is_refused_by_name(fleet: RowsCoordinator, api: AdminClient, version: str) -> None:
    with pytest.raises(AdminRequestInvalid, match="version"):
        api.post("/upgrades", {"version": version, "rings": [{"share": 1.0}]})
    with pytest.raises(UpgradeUnsuitable, match="tag"):
        api.post("/upgrades", {"version": "0.2.0", "rings": [{"tag": "nobody"}]})
    assert fleet.sent == []
