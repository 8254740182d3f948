"""FedAvg over `devices` devices, no evaluation."""

from __future__ import annotations

import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Start from random weights of the size asked for."""
    config = context.run_config
    devices, arrays = int(config["devices"]), int(config["arrays"])
    columns = 256
    rows = int(float(config["model-mb"]) * 1e6) // (4 * arrays * columns)
    rng = np.random.default_rng(7)
    initial = ArrayRecord([rng.standard_normal((rows, columns), dtype=np.float32) for _ in range(arrays)])
    strategy = FedAvg(
        fraction_evaluate=0.0, min_train_nodes=devices, min_evaluate_nodes=devices, min_available_nodes=devices
    )
    strategy.start(grid=grid, initial_arrays=initial, num_rounds=int(config["num-server-rounds"]))
