"""A NumPyClient, as apps had it before message handlers."""

import numpy as np
from flwr.app import Context
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import message_size_mod


class Client(NumPyClient):
    """Scales what it gets."""

    def __init__(self, scale: float, node: int) -> None:
        self.scale, self.node = scale, node

    def fit(self, parameters, config):
        return [array * self.scale for array in parameters], 5, {"node-is-odd": float(self.node % 2)}

    def evaluate(self, parameters, config):
        return float(np.sum(parameters[0])), 7, {"accuracy": 0.5}


def client_fn(context: Context):
    return Client(float(context.run_config["nested.scale"]), context.node_id).to_client()


app = ClientApp(client_fn=client_fn, mods=[message_size_mod])
