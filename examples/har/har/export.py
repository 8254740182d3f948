"""How the trained arrays become a model for boards: `[tool.argosy.model]` in pyproject.toml names these two."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from flwr.app import ArrayRecord
from numpy.typing import NDArray

from argosy_server.models.torch_export import export_torch
from har.data import AXES, SAMPLES, load_people
from har.model import Net

GOLDEN = 8


def export_model(arrays: ArrayRecord) -> bytes:
    """The network with these weights, as an ONNX file."""
    net = Net()
    net.load_state_dict(arrays.to_torch_state_dict())
    return export_torch(net, torch.zeros(1, AXES, SAMPLES), input_name="window", output_names=["activity"])


def samples(config: Mapping[str, object]) -> NDArray[np.float32]:
    """Some windows for the golden vectors: of the people that the coordinator tests on, or made up."""
    if not config["test-data"]:
        return np.random.default_rng(0).normal(size=(GOLDEN, AXES, SAMPLES)).astype(np.float32)
    windows = load_people(str(config["test-data"]), str(config["test-subjects"]))
    chosen = torch.linspace(0, windows.size - 1, GOLDEN).long()
    found: NDArray[np.float32] = windows.part(chosen).signals.numpy()
    return found
