"""Events of a run as lines of text."""

from __future__ import annotations

from argosy_server.cli.watch.plain import line


def told(name: str, data: dict[str, object]) -> str:
    event = {"seq": 1, "at": "2026-11-27T00:00:00+00:00", "name": name, "data": data}
    return line(event, lambda device: device).split("  ", 1)[-1]


def test_what_became_of_a_runs_model_is_said_in_words() -> None:
    assert "model har:3 exported" in told("model-exported", {"model": "har:3", "metrics": {"accuracy": 0.9}})
    error = {"code": "onnx-refused", "message": "The model is a pickle.", "remedy": "Export ONNX."}
    assert "no model was exported: The model is a pickle. Export ONNX." in told("model-not-exported", {"error": error})
    assert told("model-not-exported", {}).endswith("no model was exported:")
