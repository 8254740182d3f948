"""Adds its own number (d1 adds 1, d2 adds 2 …) to every array, and notes each training in a file of the device."""

import os
import signal
import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


def _misbehaves(message: Message, context: Context) -> str:
    config = context.run_config
    mine = str(context.node_config.get("name", "")) in str(config["who"]).split("+")
    now = int(message.content["config"]["server-round"]) == int(config["round"])
    return str(config["misbehave"]) if mine and now else ""


@app.train()
def train(message: Message, context: Context) -> Message:
    """One round of 'training'."""
    arrays = message.content["arrays"].to_numpy_ndarrays()
    notes = Path(str(context.node_config["notes"]))
    with notes.open("a") as stream:
        stream.write(f"{message.metadata.message_id} {message.content['config']['server-round']}\n")
    fault = _misbehaves(message, context)
    if fault == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "raise":
        raise RuntimeError("the sensor is on fire")
    if fault == "hang":
        time.sleep(3600)
    time.sleep(float(context.run_config["train-seconds"]))
    seen = context.state["seen"]["rounds"] + 1 if "seen" in context.state else 1
    context.state["seen"] = MetricRecord({"rounds": seen})
    number = int(str(context.node_config["name"]).removeprefix("d"))
    trained = [array + number for array in arrays]
    if fault == "reshape":
        trained[0] = np.zeros((3, 3), np.float32)
    metrics = MetricRecord({"loss": 1.0 / seen, "seen": seen, "num-examples": 10})
    return Message(RecordDict({"arrays": ArrayRecord(trained), "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Report the mean."""
    mean = float(np.mean(message.content["arrays"].to_numpy_ndarrays()[0]))
    return Message(RecordDict({"metrics": MetricRecord({"mean": mean, "num-examples": 5})}), reply_to=message)
