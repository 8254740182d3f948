"""The older strategy API, run by the compatibility layer."""

import numpy as np
from flwr.app import Context
from flwr.common import ndarrays_to_parameters
from flwr.server import ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.serverapp import ServerApp


def server_fn(context: Context):
    strategy = FedAvg(
        fraction_fit=1.0,
        min_fit_clients=2,
        min_available_clients=2,
        min_evaluate_clients=2,
        initial_parameters=ndarrays_to_parameters([np.ones(10, np.float32)]),
        evaluate_fn=lambda number, arrays, config: print(f"round {number} sum {float(np.sum(arrays[0]))}", flush=True),
    )
    return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=int(context.run_config["rounds"])))


app = ServerApp(server_fn=server_fn)
