"""FedAvg, from random weights."""

import numpy as np
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train."""
    rng = np.random.default_rng(7)
    arrays = ArrayRecord([rng.normal(size=(4, 3)).astype(np.float32), np.zeros(3, np.float32)])
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=2, min_available_nodes=2)
    strategy.start(
        grid=grid,
        initial_arrays=arrays,
        num_rounds=int(context.run_config["num-server-rounds"]),
        evaluate_fn=lambda number, _: MetricRecord({"accuracy": 0.5 + number / 10}),
    )
