"""The numpy app: its pictures, its network, and a whole run with queries, mods and a memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from digits import client_app, server_app
from digits import data as pictures
from digits.data import pool, share
from digits.model import initial
from flwr.app import Context

from tests.examples.loopback import LoopbackGrid, Observer

Config = Callable[..., dict[str, Any]]
MakeContext = Callable[..., Context]


def fleet(config: dict[str, Any], context: MakeContext, count: int = 4) -> LoopbackGrid:
    nodes = range(100, 100 + count)
    return LoopbackGrid(client_app.app, {node: context(node, config, partition_id=node - 100) for node in nodes})


def test_the_network_is_about_100_kilobytes() -> None:
    assert sum(array.nbytes for array in initial(0)) == 96_040


def test_shares_and_the_test_have_no_picture_in_common_and_leave_none_out() -> None:
    parts = [pictures.test_pictures("", 0)]
    for partition in range(4):
        parts.extend(share.__wrapped__("", 0, partition, 4, 1.0))
    rows = np.concatenate([part.images for part in parts])
    assert len(rows) == pool("", 0).size == len(np.unique(rows, axis=0))


def test_shares_are_uneven_and_the_same_at_each_start() -> None:
    first = share.__wrapped__("", 0, 1, 4, 0.3)
    again = share.__wrapped__("", 0, 1, 4, 0.3)
    counts = np.bincount(first.train.labels, minlength=10)
    assert counts.max() > 3 * max(1, counts.min())
    assert np.array_equal(first.train.images, again.train.images)


def test_a_partition_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="not one of"):
        share("", 0, 4, 4, 1.0)


def test_a_missing_file_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"fetch_digits\.py"):
        pool(str(tmp_path / "digits.npz"), 0)


def test_real_digits_take_the_place_of_made_ones(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=np.zeros((50, 64)), labels=np.arange(50) % 10)
    assert pool(str(tmp_path / "d.npz"), 0).size == 50
    np.savez(tmp_path / "e.npz", images=np.zeros((50, 60)), labels=np.arange(50) % 10)
    with pytest.raises(ValueError, match="shape"):
        pool(str(tmp_path / "e.npz"), 0)


def test_devices_learn_and_remember(run_config: Config, context: MakeContext, observer: Observer) -> None:
    config = run_config("digits_numpy", num_server_rounds=5, partitions=4)
    grid = fleet(config, context)
    server_app.app(grid, context(1, config))
    assert len(observer.accuracies) == 6
    assert observer.accuracies[-1] > 0.9
    kinds = [kind for _, kind in grid.sent]
    assert kinds[:4] == ["query"] * 4
    assert kinds[-4:] == ["query.memory"] * 4
    for node in grid.contexts.values():
        memory = node.state.metric_records["memory"]
        assert dict(memory) == {"rounds-trained": 5, "messages": 12}
        assert "momentum" in node.state


def test_a_run_may_only_evaluate(run_config: Config, context: MakeContext) -> None:
    config = run_config("digits_numpy", num_server_rounds=1, partitions=4, fraction_train=0.0)
    grid = fleet(config, context)
    server_app.app(grid, context(1, config))
    assert {kind for _, kind in grid.sent} == {"query", "evaluate", "query.memory"}
    assert all("momentum" not in node.state for node in grid.contexts.values())


def test_too_few_devices_end_the_wait(run_config: Config, context: MakeContext) -> None:
    config = run_config("digits_numpy", min_devices=5, wait_for_devices_s=0.0, partitions=4)
    with pytest.raises(TimeoutError, match="fewer than 5"):
        server_app.main(fleet(config, context), context(1, config))


def test_a_node_without_a_number_takes_one_by_its_id(run_config: Config, context: MakeContext) -> None:
    config = run_config("digits_numpy", partitions=4)
    assert client_app.share_of(context(2**63 + 3, config))[0] == 3
