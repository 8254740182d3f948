"""The coordinator's half: federated averaging, tested on people whom no device has seen."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from har.data import load_people
from har.model import Net, test

torch.set_num_threads(1)

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train for `num-server-rounds` rounds."""
    config = context.run_config
    devices = int(config["min-devices"])
    strategy = FedAvg(
        fraction_train=float(config["fraction-train"]),
        fraction_evaluate=float(config["fraction-evaluate"]),
        min_train_nodes=devices,
        min_evaluate_nodes=devices,
        min_available_nodes=devices,
    )
    torch.manual_seed(int(config["seed"]))
    random.seed(int(config["seed"]))  # Flower draws the devices of a round from it
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(Net().state_dict()),
        num_rounds=int(config["num-server-rounds"]),
        evaluate_fn=central_evaluation(str(config["test-data"]), str(config["test-subjects"])),
    )


def central_evaluation(data: str, subjects: str) -> Callable[[int, ArrayRecord], MetricRecord] | None:
    """How to test the global model on unseen people, or None where the coordinator was given no test data."""
    if not data:
        return None
    windows = load_people(data, subjects)

    def evaluate(_round: int, arrays: ArrayRecord) -> MetricRecord:
        net = Net()
        net.load_state_dict(arrays.to_torch_state_dict())
        score = test(net, windows)
        return MetricRecord({"loss": score.loss, "accuracy": score.accuracy, "num-examples": windows.size})

    return evaluate
