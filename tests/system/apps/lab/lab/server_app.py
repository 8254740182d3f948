"""FedAvg over arrays that start at zero: with devices d1, d2 each undisturbed round adds 1.5 to every number."""

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train."""
    config = context.run_config
    nodes = int(config["min-nodes"])
    strategy = FedAvg(
        fraction_train=1.0,
        fraction_evaluate=1.0,
        min_train_nodes=nodes,
        min_evaluate_nodes=nodes,
        min_available_nodes=nodes,
    )

    def central(_round: int, arrays: ArrayRecord) -> MetricRecord:
        return MetricRecord({"mean": float(np.mean(arrays.to_numpy_ndarrays()[0]))})

    size = int(config["floats"])
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord([np.zeros(size, np.float32), np.zeros((4, 5), np.float64)]),
        num_rounds=int(config["num-server-rounds"]),
        timeout=float(config["timeout"]),
        train_config=ConfigRecord({"note": "from the server app"}),
        evaluate_fn=central,
    )
