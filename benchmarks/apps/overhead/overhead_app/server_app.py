"""FedAvg over `devices` devices, with a mark in a file at every turn of a round.

A mark is one JSON line: `{"mark", "round", "at", …}`, `at` in seconds of CLOCK_MONOTONIC, which all processes of one
machine share, so that the benchmark can lay its own observations beside it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


class MarkedFedAvg(FedAvg):
    """FedAvg on all devices that writes down when each phase began and ended."""

    def __init__(self, devices: int, marks: str) -> None:
        super().__init__(min_train_nodes=devices, min_evaluate_nodes=devices, min_available_nodes=devices)
        self._marks = Path(marks) if marks else None
        self._round = 0

    def mark(self, name: str, server_round: int, **facts: float) -> None:
        """Append one mark."""
        if self._marks is not None:
            with self._marks.open("a") as stream:
                stream.write(json.dumps({"mark": name, "round": server_round, "at": time.monotonic(), **facts}) + "\n")

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """See `FedAvg`."""
        self.mark("train-begins", server_round)
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """See `FedAvg`."""
        received = list(replies)
        self.mark("train-ends", server_round, **_told(received))
        aggregated = super().aggregate_train(server_round, received)
        self.mark("aggregated", server_round)
        return aggregated

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """See `FedAvg`."""
        self.mark("evaluate-begins", server_round)
        return super().configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """See `FedAvg`."""
        received = list(replies)
        self.mark("evaluate-ends", server_round, **_told(received))
        return super().aggregate_evaluate(server_round, received)


def _told(replies: list[Message]) -> dict[str, float]:
    """Return how many answered in vain or well, the slowest device's compute seconds, and the mean weight."""
    metrics = [reply.content.metric_records["metrics"] for reply in replies if not reply.has_error()]
    compute = [float(str(record["compute-s"])) for record in metrics]
    means = [float(str(record["mean"])) for record in metrics if "mean" in record]
    told = {"replies": len(metrics), "errors": len(replies) - len(metrics), "compute_s": max(compute, default=0.0)}
    return told | ({"mean": means[0]} if means else {})


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Start with different numbers in [0, 1) everywhere: equal arrays would let either side send one for all."""
    config = context.run_config
    arrays = int(config["arrays"])
    weights = int(float(config["model-mb"]) * 1e6) // (4 * arrays)
    rng = np.random.default_rng(7)
    initial = ArrayRecord([rng.random(weights, dtype=np.float32) for _ in range(arrays)])
    strategy = MarkedFedAvg(int(config["devices"]), str(config["marks"]))
    strategy.mark("begins", 0)
    strategy.start(grid=grid, initial_arrays=initial, num_rounds=int(config["num-server-rounds"]))
    strategy.mark("ends", 0)
