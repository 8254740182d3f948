"""The board's half: train on one person's windows, as late as its delay says.

A device's configuration: `subject`, whose windows it has (its node id decides where it is not told); `data`, `delay`
and `seed`, each in place of the run's; `notes`, a file that gets a line `MESSAGE ROUND` as each training begins.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from boards_app.data import Windows, load_person
from boards_app.delays import delay_mod, server_round
from boards_app.model import Arrays, Score, test, train

PEOPLE = 20  # who train; the others are for the test

person = lru_cache(maxsize=1)(load_person)


def note_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Note a training before its delay, where the device was given a file for it."""
    notes = str(context.node_config.get("notes", ""))
    if notes and message.metadata.message_type.split(".")[0] == "train":
        with Path(notes).open("a") as stream:
            stream.write(f"{message.metadata.message_id} {server_round(message)}\n")
    return call_next(message, context)


app = ClientApp(mods=[note_mod, delay_mod])


@app.train()
def train_round(message: Message, context: Context) -> Message:
    """Train the global model on this person's windows; answer with the new arrays."""
    config = context.run_config
    subject, windows = windows_of(context)
    weights = received(message)
    train(
        weights,
        windows,
        epochs=int(config["local-epochs"]),
        lr=float(config["lr"]),
        batch_size=int(config["batch-size"]),
        rng=np.random.default_rng((int(config["seed"]), subject, server_round(message))),
    )
    content = RecordDict({"arrays": ArrayRecord(weights), "metrics": metrics(test(weights, windows), windows)})
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate_round(message: Message, context: Context) -> Message:
    """How well the global model fits this person's windows."""
    _, windows = windows_of(context)
    content = RecordDict({"metrics": metrics(test(received(message), windows), windows)})
    return Message(content, reply_to=message)


@app.query()
def count(message: Message, context: Context) -> Message:
    """How many windows there are; they are loaded now."""
    _, windows = windows_of(context)
    return Message(RecordDict({"windows": MetricRecord({"num-examples": windows.size})}), reply_to=message)


def windows_of(context: Context) -> tuple[int, Windows]:
    """Whose windows this device has, and the windows."""
    node = context.node_config
    subject = int(node.get("subject", context.node_id % PEOPLE + 1))
    return subject, person(str(node.get("data", context.run_config["data"])), subject)


def received(message: Message) -> Arrays:
    """The network of a message, in arrays that may be written to."""
    return [np.array(array, np.float32) for array in message.content.array_records["arrays"].to_numpy_ndarrays()]


def metrics(score: Score, windows: Windows) -> MetricRecord:
    """A score as Flower averages it over devices: weighted by `num-examples`."""
    return MetricRecord({"loss": score.loss, "accuracy": score.accuracy, "num-examples": windows.size})
