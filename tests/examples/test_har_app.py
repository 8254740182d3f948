"""The torch app: its data, its network, and whole runs on made-up people."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context
from har import client_app, server_app
from har.data import Windows, load_person, load_windows, person_file, split, subject_numbers
from har.model import Net, turned

from tests.examples.loopback import LoopbackGrid, Observer

Config = Callable[..., dict[str, Any]]
MakeContext = Callable[..., Context]
MakePeople = Callable[..., Path]


def test_the_network_has_37_thousand_parameters() -> None:
    assert sum(array.numel() for array in Net().parameters()) == 37_382
    assert Net()(torch.zeros(2, 6, 128)).shape == (2, 6)


def test_a_person_trains_and_evaluates_on_different_windows_with_a_gap_between() -> None:
    labels = torch.arange(6).repeat_interleave(10)
    signals = torch.arange(60.0)[:, None, None].expand(60, 6, 128)
    person = split(Windows(signals, labels))
    train, held_out = (set(part.signals[:, 0, 0].tolist()) for part in person)
    assert (len(train), len(held_out)) == (42, 12)
    assert not {window + 1 for window in train} & held_out


def test_turning_keeps_the_upright_axis_and_every_length() -> None:
    signals = torch.randn(50, 6, 128)
    result = turned(signals, 30.0, torch.Generator().manual_seed(0))
    assert torch.equal(result[:, [0, 3]], signals[:, [0, 3]])
    lengths = [windows.reshape(50, 2, 3, 128).norm(dim=2) for windows in (result, signals)]
    assert torch.allclose(lengths[0], lengths[1], atol=1e-5)
    assert not torch.allclose(result, signals)
    assert torch.equal(turned(signals, 0.0, torch.Generator()), signals)


def test_subjects_are_named_by_ranges() -> None:
    assert subject_numbers("1-3,7, 9") == [1, 2, 3, 7, 9]
    with pytest.raises(ValueError, match="invalid literal"):
        subject_numbers("all")


def test_missing_data_says_how_to_prepare_it(tmp_path: Path) -> None:
    for data in (tmp_path, tmp_path / "none.npz", ""):
        with pytest.raises(FileNotFoundError, match=r"prepare\.py"):
            person_file(data, 3)


def test_windows_of_another_shape_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "subject-01.npz", signals=np.zeros((4, 3, 128)), labels=np.zeros(4))
    with pytest.raises(ValueError, match="shape"):
        load_windows(tmp_path / "subject-01.npz")


def test_a_persons_data_is_read_once(made_people: MakePeople) -> None:
    folder = str(made_people([1]))
    assert load_person(folder, 1) is load_person(folder, 1)


def test_devices_learn_together_what_the_coordinator_tests_on_others(
    made_people: MakePeople, run_config: Config, context: MakeContext, observer: Observer
) -> None:
    folder = made_people(range(1, 6))
    config = run_config("har", num_server_rounds=4, local_epochs=8, test_data=str(folder), test_subjects="4-5")
    named = {11: {"subject": 1}, 12: {"subject": 2}, 13: {"partition_id": 2}}
    contexts = {node: context(node, config, data=str(folder), **extra) for node, extra in named.items()}
    grid = LoopbackGrid(client_app.app, contexts)
    server_app.app(grid, context(1, config))
    assert len(observer.accuracies) == 5
    assert observer.accuracies[-1] > 0.9
    assert [kind for _, kind in grid.sent] == (["train"] * 3 + ["evaluate"] * 3) * 4


def test_a_run_again_gives_the_same_model(
    made_people: MakePeople, run_config: Config, context: MakeContext, observer: Observer
) -> None:
    folder = str(made_people([1, 2]))
    config = run_config("har", num_server_rounds=2, fraction_evaluate=0.0)
    finals = []
    for _ in range(2):
        contexts = {node: context(node, config, data=folder, subject=node) for node in (1, 2)}
        server_app.app(LoopbackGrid(client_app.app, contexts), context(9, config))
        finals.append(observer.final.to_numpy_ndarrays())
    assert len(finals[0]) == len(Net().state_dict())
    for first, second in zip(*finals, strict=True):
        np.testing.assert_array_equal(first, second)


def test_without_test_data_the_coordinator_does_not_evaluate() -> None:
    assert server_app.central_evaluation("", "21-30") is None
