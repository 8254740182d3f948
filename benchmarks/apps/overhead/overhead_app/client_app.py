"""Train adds a step to every weight; evaluate takes a mean. Both report the seconds of their arithmetic.

Only the arithmetic counts as compute: turning records into arrays and back is the transport's business, on either side.
The step differs between devices, so that no two of them send the same bytes: content addressing shall not save uploads.
"""

from __future__ import annotations

import time

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Add this device's step, in [0.5, 1.5), to each weight and send all of them back."""
    received = message.content["arrays"]
    assert isinstance(received, ArrayRecord)
    weights = received.to_numpy_ndarrays()
    step = 0.5 + context.node_id % 997 / 997
    begun = time.perf_counter()
    for array in weights:
        np.add(array, step, out=array)
    seconds = time.perf_counter() - begun
    content = RecordDict({"arrays": ArrayRecord(weights), "metrics": _metrics(seconds)})
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, _context: Context) -> Message:
    """Tell the mean of the first array: it shows the server that this round's model arrived."""
    received = message.content["arrays"]
    assert isinstance(received, ArrayRecord)
    weights = received.to_numpy_ndarrays()
    begun = time.perf_counter()
    mean = float(weights[0].mean())
    metrics = _metrics(time.perf_counter() - begun)
    metrics["mean"] = mean
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def _metrics(seconds: float) -> MetricRecord:
    return MetricRecord({"num-examples": 1, "compute-s": seconds})
