"""The device's half: train and evaluate on one person's recordings, which never leave the device."""

from __future__ import annotations

from typing import cast

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from har.data import Person, load_person
from har.model import Net, Score, test, train

torch.set_num_threads(1)  # a board has other work, and ten devices may share one machine

app = ClientApp()


@app.train()
def train_round(message: Message, context: Context) -> Message:
    """Train the global model on this person's windows; answer with the new arrays."""
    config = context.run_config
    server_round = cast("int", message.content.config_records["config"]["server-round"])
    subject, person = person_of(context)
    net = received_net(message)
    score = train(
        net,
        person.train,
        epochs=int(config["local-epochs"]),
        lr=float(config["lr"]) * float(config["lr-decay"]) ** (server_round - 1),
        batch_size=int(config["batch-size"]),
        turn_degrees=float(config["turn-degrees"]),
        generator=torch.Generator().manual_seed((int(config["seed"]) * 1000 + subject) * 1000 + server_round),
    )
    content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics(score, person.train.size)})
    return Message(content=content, reply_to=message)


@app.evaluate()
def evaluate_round(message: Message, context: Context) -> Message:
    """Evaluate the global model on the windows that this person's device held out."""
    _, person = person_of(context)
    score = test(received_net(message), person.held_out)
    return Message(content=RecordDict({"metrics": metrics(score, person.held_out.size)}), reply_to=message)


def person_of(context: Context) -> tuple[int, Person]:
    """Whose device this is: `subject` and `data` of the node, or the partition's number where Flower simulates."""
    node = context.node_config
    subject = int(node["subject"]) if "subject" in node else int(node["partition-id"]) + 1
    return subject, load_person(str(node.get("data", context.run_config["data"])), subject)


def received_net(message: Message) -> Net:
    """The network with the arrays of a message."""
    net = Net()
    net.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    return net


def metrics(score: Score, examples: int) -> MetricRecord:
    """A score as Flower averages it over devices: weighted by `num-examples`."""
    return MetricRecord({"loss": score.loss, "accuracy": score.accuracy, "num-examples": examples})
