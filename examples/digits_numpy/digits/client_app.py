"""The device's half: mods, queries, and a memory that lasts from round to round.

`context.state` keeps two records: `memory` counts what this device has done in the run, `momentum` carries the
optimizer on where the last round left it.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import message_size_mod
from flwr.clientapp.typing import ClientAppCallable

from digits.data import CLASSES, Share, share
from digits.model import Arrays, Score, still, test, train


def count_messages(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """A mod that counts, in the device's memory, every message it answered."""
    reply = call_next(message, context)
    remember(context, messages=recalled(context, "messages") + 1)
    return reply


app = ClientApp(mods=[message_size_mod, count_messages])


@app.train()
def train_round(message: Message, context: Context) -> Message:
    """Train the global network, with the momentum of this device's last round."""
    config = context.run_config
    server_round = cast("int", message.content.config_records["config"]["server-round"])
    partition, mine = share_of(context)
    weights = received(message)
    momenta = kept_momenta(context, weights)
    score = train(
        weights,
        momenta,
        mine.train,
        epochs=int(config["local-epochs"]),
        lr=float(config["lr"]),
        batch_size=int(config["batch-size"]),
        rng=np.random.default_rng((int(config["seed"]), partition, server_round)),
    )
    context.state["momentum"] = ArrayRecord(momenta)
    remember(context, **{"rounds-trained": recalled(context, "rounds-trained") + 1})
    measured = metrics(score, mine.train.size)
    measured["rounds-trained"] = recalled(context, "rounds-trained")
    return Message(content=RecordDict({"arrays": ArrayRecord(weights), "metrics": measured}), reply_to=message)


@app.evaluate()
def evaluate_round(message: Message, context: Context) -> Message:
    """Evaluate the global network on the digits that this device held out."""
    _, mine = share_of(context)
    score = test(received(message), mine.held_out)
    return Message(content=RecordDict({"metrics": metrics(score, mine.held_out.size)}), reply_to=message)


@app.query()
def describe(message: Message, context: Context) -> Message:
    """How many pictures of each digit this device has: what the coordinator asks before a run."""
    _, mine = share_of(context)
    counts = np.bincount(mine.train.labels, minlength=CLASSES).tolist()
    record = MetricRecord({"num-examples": mine.train.size, "counts": counts})
    return Message(content=RecordDict({"shares": record}), reply_to=message)


@app.query("memory")
def recall(message: Message, context: Context) -> Message:
    """What this device remembers of the run: what the coordinator asks after it."""
    record = MetricRecord({name: recalled(context, name) for name in ("rounds-trained", "messages")})
    return Message(content=RecordDict({"memory": record}), reply_to=message)


def share_of(context: Context) -> tuple[int, Share]:
    """This device's partition, and its pictures; a node that was given no number takes one by its id."""
    config, node = context.run_config, context.node_config
    partitions = int(config["partitions"])
    partition = int(node.get("partition-id", context.node_id % partitions))
    data = str(node.get("data", config["data"]))
    return partition, share(data, int(config["seed"]), partition, partitions, float(config["skew"]))


def received(message: Message) -> Arrays:
    """The network of a message, in arrays that may be written to."""
    return [np.array(array, np.float32) for array in message.content.array_records["arrays"].to_numpy_ndarrays()]


def kept_momenta(context: Context, weights: Arrays) -> Arrays:
    """The momenta of this device's last round, or none in its first."""
    if "momentum" not in context.state:
        return still(weights)
    return [np.array(array, np.float32) for array in context.state.array_records["momentum"].to_numpy_ndarrays()]


def recalled(context: Context, name: str) -> int:
    """A counter in the device's memory."""
    return cast("int", memory(context).get(name, 0))


def remember(context: Context, **counters: int) -> None:
    """Set counters in the device's memory."""
    context.state["memory"] = MetricRecord({**memory(context), **counters})


def memory(context: Context) -> MetricRecord:
    """The device's memory of this run, empty at first."""
    return context.state.metric_records["memory"] if "memory" in context.state else MetricRecord()


def metrics(score: Score, examples: int) -> MetricRecord:
    """A score as Flower averages it over devices: weighted by `num-examples`."""
    return MetricRecord({"loss": score.loss, "accuracy": score.accuracy, "num-examples": examples})
