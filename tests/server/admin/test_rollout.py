"""Rollouts by the admin API and the command line; the boards are rows, and answer when the test says so."""

from __future__ import annotations

import json
from functools import partial

import pytest

from argosy_common.errors import AdminRequestInvalid, RolloutNotFound
from argosy_common.wire.bodies import Deploy, ErrorPart, ModelState
from argosy_common.wire.envelope import Envelope
from argosy_server.api.server import AdminServer
from argosy_server.cli.client import AdminClient
from argosy_server.cli.rings import parse_share
from argosy_server.store.models import SignedManifest
from tests.artefacts import Artefact, Authority, artefact
from tests.server.admin.conftest import Argosy
from tests.server.admin.coordinator_on_rows import RowsCoordinator

AUTHORITY = Authority()
ENVELOPE = Envelope(kind="model-state")


@pytest.fixture
def models(coordinator: RowsCoordinator, server: AdminServer) -> RowsCoordinator:
    """The coordinator, with two versions in its registry and its API up."""
    for version in (1, 2):
        coordinator.store.models.add("har", partial(_signed, artefact(version)), actor="test")
    return coordinator


def _signed(made: Artefact, _version: int, _parent: int | None) -> SignedManifest:
    signature = AUTHORITY.sign(made.manifest).model_dump()
    blobs = (made.manifest.onnx.digest, made.manifest.golden.blob.digest)
    return SignedManifest(made.manifest.canonical(), signature, *blobs, run=None, round=None)


def answer(coordinator: RowsCoordinator, state: str = "active") -> None:
    """Have the boards answer what they were sent, and the coordinator decide."""
    sent, coordinator.sent = coordinator.sent, []
    for device, body in sent:
        assert isinstance(body, Deploy)
        error = (
            ErrorPart(code="model-misfit", message="Its golden outputs \x1b[31mdiffer.") if state == "refused" else None
        )
        told = ModelState.model_validate(
            {"rollout": body.rollout, "name": body.name, "version": body.version, "state": state, "error": error}
            | ({"in_force": body.version, "backend": "onnxruntime", "p95_ms": 1.5} if state == "active" else {})
        )
        coordinator.rollouts.take(device, ENVELOPE, told)
    coordinator.rollouts.tick()


def test_a_rollout_is_started_shown_paused_resumed_and_stopped(
    models: RowsCoordinator, api: AdminClient, argosy: Argosy
) -> None:
    done = argosy("model", "rollout", "har:1", "--hold", "1h", "--max-errors", "5%")
    assert done.stdout == "Rollout 1 of har:1 begins.\n", done.stderr
    answer(models)
    shown = argosy("model", "status", "har").stdout
    for text in ("[5%] 25% 100%", "1 active of 1", "ring 5% lasts another", "onnxruntime"):
        assert text in shown
    assert api.post("/rollouts/1/pause")["state"] == "paused"
    done = argosy("model", "pause", "har")
    assert (done.returncode, "[rollout-state-forbids]" in done.stderr) == (125, True)
    assert api.post("/rollouts/har/resume")["state"] == "running"
    done = argosy("model", "stop", "har", "--yes")
    assert done.stdout == "The boards go back to no model at all.\n", done.stderr
    rows = api.get("/rollouts")["rollouts"]
    assert [(row["state"], row["rings"][0]["max_errors"]) for row in rows] == [("rolling-back", 0.05)]
    audited = [it.action for it in models.store.audit.tail() if it.actor.startswith("user:")]
    assert audited == ["model.rollout", "model.pause", "model.resume", "model.stop"]


def test_a_watched_rollout_ends_with_its_outcome(models: RowsCoordinator, argosy: Argosy) -> None:
    argosy("model", "rollout", "har:1", "--rings", "100%", "--hold", "0s")
    answer(models)
    done = argosy("model", "status", "1", "--watch")
    assert (done.returncode, "finished" in done.stdout) == (0, True)
    argosy("model", "rollout", "har:2", "--rings", "100%", "--hold", "0s")
    answer(models, "refused")
    answer(models)
    models.rollouts.tick()
    done = argosy("model", "status", "har", "--watch", "--json")
    assert json.loads(done.stdout.splitlines()[-1])["state"] == "rolled-back"
    assert (done.returncode, "[rollout-rolled-back]" in done.stderr) == (125, True)
    shown = argosy("model", "status", "har").stdout
    assert "3 of 3 devices failed with it" in shown
    assert "\x1b[31m" not in shown, "a board gives a terminal no orders"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("har:1", "--rings", "5%", "--tags", "north"), "not both"),
        (("har:1", "--rings", "much"), "no share"),
        (("har:1", "--tags", "south"), "no device has the tag 'south'"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_plain_words(
    models: RowsCoordinator, argosy: Argosy, words: tuple[str, ...], said: str
) -> None:
    done = argosy("model", "rollout", *words, COLUMNS="200")
    assert done.returncode != 0
    assert said in done.stderr
    assert models.sent == []


def test_tags_are_rings(models: RowsCoordinator, api: AdminClient, argosy: Argosy) -> None:
    done = argosy("model", "rollout", "har", "--tags", "north", "--json")
    assert [ring["text"] for ring in json.loads(done.stdout)["rings"]] == ["tag:north"]
    assert api.get("/rollouts/har")["version"] == 2


@pytest.mark.parametrize(
    "ring", [{}, {"share": 0}, {"share": 1.5}, {"share": 0.5, "tag": "a"}, {"tag": ""}, {"share": 1, "hold_s": -1}]
)
def test_a_malformed_ring_is_refused_by_the_name_of_its_field(
    models: RowsCoordinator, api: AdminClient, ring: dict[str, object]
) -> None:
    with pytest.raises(AdminRequestInvalid, match="rings"):
        api.post("/rollouts", {"model": "har:1", "rings": [ring]})


def test_a_rollout_that_is_not_there_is_named(models: RowsCoordinator, api: AdminClient) -> None:
    with pytest.raises(RolloutNotFound):
        api.get("/rollouts/7")
    with pytest.raises(RolloutNotFound):
        api.post("/rollouts/rollback", {"model": "har"})


def test_shares() -> None:
    assert [parse_share(text) for text in ("5%", "0.05", "100%", "0%", 0.25)] == [0.05, 0.05, 1.0, 0.0, 0.25]
