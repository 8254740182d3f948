"""FedAdam over two of three devices, drawn by the global generator; it counts its own rounds in an attribute."""

import random

import numpy as np
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAdam

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train."""
    random.seed(int(context.run_config["seed"]))
    strategy = FedAdam(
        fraction_train=0.67,
        fraction_evaluate=1.0,
        min_train_nodes=2,
        min_evaluate_nodes=3,
        min_available_nodes=3,
        eta=0.5,
    )
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord([np.zeros(int(context.run_config["size"]), np.float32), np.ones(3, np.float32)]),
        num_rounds=int(context.run_config["num-server-rounds"]),
        evaluate_fn=first,
    )


def first(number: int, arrays: ArrayRecord) -> MetricRecord:
    """Return the first of all numbers, which tells every model from every other."""
    return MetricRecord({"first": float(arrays.to_numpy_ndarrays()[0][0]), "n": number})
