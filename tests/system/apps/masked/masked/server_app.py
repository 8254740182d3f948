"""Any strategy of Flower's by its name; the model of each round is left in the working directory."""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord
from flwr.serverapp import ServerApp, strategy

app = ServerApp()


@app.main()
def main(grid, context):
    config = context.run_config
    devices = int(config["min-nodes"])
    made = getattr(strategy, config["strategy"])(
        fraction_evaluate=1.0 if config["evaluate"] else 0.0,
        min_train_nodes=devices,
        min_evaluate_nodes=devices if config["evaluate"] else 0,
        min_available_nodes=devices,
    )
    zeros = ArrayRecord({"weights": Array(np.zeros((24, 6), np.float32)), "bias": Array(np.zeros(6, np.float32))})

    def keep(round_, arrays):
        np.savez(f"model-{round_}.npz", **{name: array.numpy() for name, array in arrays.items()})
        return MetricRecord({"kept": 1})

    made.start(grid, zeros, num_rounds=int(config["num-server-rounds"]), evaluate_fn=keep)
