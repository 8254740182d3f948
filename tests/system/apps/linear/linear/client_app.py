"""Adds one to every weight."""

import time

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from argosy_common.flower.seen import SEEN, seen

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """One round."""
    began = time.monotonic()
    while time.monotonic() - began < float(context.run_config["busy-s"]):
        sum(range(1000))
    arrays = [array + 1 for array in message.content["arrays"].to_numpy_ndarrays()]
    inputs = np.random.default_rng(3).normal(size=(400, 4)).astype(np.float32)
    metrics = MetricRecord({"num-examples": 1, "loss": 0.5, SEEN: seen(inputs, inputs @ arrays[0] + arrays[1])})
    return Message(RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics}), reply_to=message)
