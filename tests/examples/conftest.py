"""The example apps on the import path, and what their runs need."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, RecordDict

from argosy_common.flower.compat import become_task, observe_strategies
from tests.examples.loopback import Observer

EXAMPLES = Path(__file__).parents[2] / "examples"
APPS = ("har", "har_serial", "digits_numpy")


sys.path.extend(str(EXAMPLES / name) for name in APPS)  # as Flower does with an app's folder


@pytest.fixture(autouse=True)
def _coordinator() -> None:
    become_task(run_id=1, node_id=1)


@pytest.fixture
def observer() -> Iterator[Observer]:
    """What the strategies of this test showed."""
    observer = Observer()
    undo = observe_strategies(observer)
    yield observer
    undo()


@pytest.fixture
def run_config() -> Callable[..., dict[str, Any]]:
    """A function that reads an app's run configuration and overrides some of it."""

    def read(app: str, **overrides: object) -> dict[str, Any]:
        project = tomllib.loads((EXAMPLES / app / "pyproject.toml").read_text())
        config: dict[str, Any] = project["tool"]["flwr"]["app"]["config"]
        changed = {key.replace("_", "-"): value for key, value in overrides.items()}
        assert changed.keys() <= config.keys()
        return {**config, **changed}

    return read


@pytest.fixture
def context() -> Callable[..., Context]:
    """A function that makes the context of a node."""

    def make(node: int, config: dict[str, Any], **node_config: int | float | str | bool) -> Context:
        named = {key.replace("_", "-"): value for key, value in node_config.items()}
        return Context(run_id=1, node_id=node, node_config=named, state=RecordDict(), run_config=config)

    return make


@pytest.fixture
def made_people(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes made-up people in the form of `prepare.py`: each activity its own tilt and rhythm."""

    def write(subjects: Iterable[int], per_activity: int = 12) -> Path:
        time = np.arange(128) / 50
        for subject in subjects:
            rng = np.random.default_rng(subject)
            labels = np.repeat(np.arange(6), per_activity)
            signals = rng.normal(0, 0.1, (len(labels), 6, 128)).astype(np.float32)
            for signal, label in zip(signals, labels, strict=True):
                signal[0] += label % 3
                signal[3] += (label >= 3) * np.sin(2 * np.pi * 2 * time + rng.uniform(0, 6))
            np.savez(tmp_path / f"subject-{subject:02d}.npz", signals=signals, labels=labels)
        return tmp_path

    return write
