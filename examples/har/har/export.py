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

SAMPLES_GIVEN = 512
"""Enough to tell by them later whether what a board sees has drifted."""


def export_model(arrays: ArrayRecord) -> bytes:
    """The network with these weights, as an ONNX file."""
    net = Net()
    net.load_state_dict(arrays.to_torch_state_dict())
    return export_torch(net, torch.zeros(1, AXES, SAMPLES), input_name="window", output_names=["activity"])


def samples(config: Mapping[str, object]) -> NDArray[np.float32]:
    """Some windows of the people that the coordinator tests on, or a few made up: the first are the golden vectors."""
    if not config["test-data"]:
        return np.random.default_rng(0).normal(size=(8, AXES, SAMPLES)).astype(np.float32)
    windows = load_people(str(config["test-data"]), str(config["test-subjects"]))
    chosen = torch.randperm(windows.size, generator=torch.Generator().manual_seed(0))[:SAMPLES_GIVEN]
    found: NDArray[np.float32] = windows.part(chosen).signals.numpy()
    return found
