"""Adds a number of the device's own, and how often it has trained: small whole numbers, which add up in any order."""

import time

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """One round."""
    time.sleep(float(context.run_config["busy-s"]))
    times = int(context.state.metric_records.get("times", {"n": 0})["n"]) + 1
    context.state["times"] = MetricRecord({"n": times})
    mine = int(context.node_config["number"]) + times
    arrays = [array + mine for array in message.content["arrays"].to_numpy_ndarrays()]
    metrics = MetricRecord({"num-examples": 1, "times": times})
    return Message(RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """The mean, as this device sees it."""
    mean = float(message.content["arrays"].to_numpy_ndarrays()[0].mean())
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1, "mean": mean})}), reply_to=message)
