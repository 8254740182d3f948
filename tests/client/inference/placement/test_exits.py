"""Early exits: who is sure gets the exit's answer and goes no further; who is not gets the final one."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from argosy_client.inference.backend import Material
from argosy_client.inference.backends.onnx_runtime import Fp32
from argosy_client.inference.folder import Version
from argosy_client.inference.opening import opened
from argosy_client.inference.placement.opening import placed
from argosy_client.inference.placement.stages import Exiting
from argosy_client.inference.serving import Serving
from argosy_common.artefact import Manifest
from argosy_common.drift import confidences
from argosy_common.errors import ArtefactInvalid, ModelSettingsInvalid
from argosy_server.models.onnx_file import examine
from argosy_server.models.settings import ModelSettings
from tests.cuttable import MANIFEST_EXITS, exits_of, staged
from tests.models import artefact, put, windows

INPUTS = windows(40, seed=3) * np.linspace(0.1, 12.0, 40, dtype=np.float32)[:, None, None]


def expected(model: bytes, inputs: NDArray[np.float32], sure: float) -> tuple[NDArray[np.float32], dict[str, int]]:
    """Return what each input should get, and how many take each exit."""
    told = exits_of(model, inputs)
    answers, counts = told["y"].copy(), {"e1": 0, "e2": 0, "final": 0}
    for row in range(len(inputs)):
        for name in ("e1", "e2"):
            if confidences(told[name][row : row + 1])[0] >= sure:
                answers[row] = told[name][row]
                counts[name] += 1
                break
        else:
            counts["final"] += 1
    return answers, {name: count for name, count in counts.items() if count}


def session(version: Version) -> Exiting:
    whole = Fp32().open(Material(version.onnx, version.manifest, version.samples, version.work))
    found = placed(version, whole)
    assert isinstance(found, Exiting)
    return found


def confidence(model: bytes) -> float:
    """Return a threshold that some inputs reach at the first exit, some at the second, and some at none."""
    told = exits_of(model, INPUTS)
    found = np.percentile(np.concatenate([confidences(told[name]) for name in ("e1", "e2")]), 55)
    counts = expected(model, INPUTS, float(found))[1]
    assert set(counts) == {"e1", "e2", "final"}, counts
    return float(found)


@pytest.mark.parametrize("batch", [1, 7, 40])
def test_each_input_of_a_batch_stops_where_it_is_sure(tmp_path: Path, batch: int) -> None:
    model = staged()
    sure = confidence(model)
    found = session(put(tmp_path, model, 1, exits=MANIFEST_EXITS, exit_confidence=sure))
    answers, counts = expected(model, INPUTS, sure)
    outputs = np.concatenate([found.run(INPUTS[start : start + batch]) for start in range(0, 40, batch)])
    assert np.allclose(outputs, answers, atol=1e-3)
    assert found.counts() == {"exits": counts}


def test_where_nobody_is_sure_the_final_answers_come(tmp_path: Path) -> None:
    model = staged()
    found = session(put(tmp_path, model, 1, exits=MANIFEST_EXITS, exit_confidence=1.0))
    assert np.allclose(found.run(windows(5)), exits_of(model, windows(5))["y"], atol=1e-4)
    assert found.counts() == {"exits": {"final": 5}}


def test_without_a_threshold_or_in_the_wrong_order_the_exits_are_left_alone(tmp_path: Path) -> None:
    version = put(tmp_path, staged(), 1, exits=MANIFEST_EXITS)
    whole = Fp32().open(Material(version.onnx, version.manifest, version.samples, version.work))
    assert placed(version, whole) is whole
    version = put(tmp_path, staged(), 2, exits=MANIFEST_EXITS[::-1], exit_confidence=0.5)
    assert placed(version, whole) is whole


def test_what_is_served_tells_where_its_inputs_stopped(tmp_path: Path) -> None:
    model = staged()
    loaded = opened(put(tmp_path, model, 1, exits=MANIFEST_EXITS, exit_confidence=0.01, backends=["onnxruntime"]))
    serving = Serving()
    serving.put(loaded)
    answer = serving.infer("har", windows(3))
    assert np.allclose(answer.outputs, exits_of(model, windows(3))["e1"], atol=1e-4)
    assert loaded.stats()["exits"] == {"e1": 3}
    assert loaded.ran_on == "CPU"


def test_an_app_says_how_sure_an_exit_must_be_and_boards_are_told(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(staged())
    said = {"exits": ["e1", "e2"], "exit-confidence": 0.9, "name": "har", "export": "har.export:model"}
    draft, _ = examine(tmp_path / "model.onnx", ModelSettings.from_wire(said))
    manifest = draft.manifest("har", 1, at=datetime(2026, 1, 1, tzinfo=UTC))
    assert (manifest.exit_confidence, [each.name for each in manifest.exits]) == (0.9, ["e1", "e2"])
    with pytest.raises(ModelSettingsInvalid, match="exit-confidence"):
        ModelSettings.from_wire({**said, "exit-confidence": 1.5})


def test_manifests_without_the_threshold_keep_the_bytes_that_were_signed() -> None:
    plain, _ = artefact(staged(exits=False), 1)
    assert b"exit_confidence" not in plain.canonical()
    assert Manifest.parse(plain.canonical()) == plain
    sure, _ = artefact(staged(), 1, exits=MANIFEST_EXITS, exit_confidence=0.8)
    assert b'"exit_confidence":0.8' in sure.canonical()
    assert Manifest.parse(sure.canonical()).exit_confidence == 0.8
    told = plain.canonical().replace(b'"exits":[]', b'"exit_confidence":null,"exits":[]')
    with pytest.raises(ArtefactInvalid, match="canonical"):
        Manifest.parse(told)
    with pytest.raises(ArtefactInvalid, match="no exits"):
        Manifest.parse(plain.canonical().replace(b'"exits":[]', b'"exit_confidence":0.5,"exits":[]'))
