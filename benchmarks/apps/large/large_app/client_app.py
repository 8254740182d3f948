"""Train adds noise of this device's own to every weight: an update like any other, and no two devices send the same."""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Nudge each weight, one array after the other."""
    rng = np.random.default_rng(context.node_id)
    received = message.content["arrays"]
    assert isinstance(received, ArrayRecord)
    made = ArrayRecord()
    for name in list(received):
        array = received.pop(name).numpy()
        made[name] = Array(array + np.float32(0.01) * rng.standard_normal(array.shape, dtype=np.float32))
    metrics = MetricRecord({"num-examples": 1, "loss": float(rng.random())})
    return Message(RecordDict({"arrays": made, "metrics": metrics}), reply_to=message)
