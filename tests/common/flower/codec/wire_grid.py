"""A fleet in this process whose messages really are bytes, and whose contexts really lie in files between rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from argosy_common.blobs import BlobStore
from argosy_common.flower import compat
from argosy_common.flower.codec.mod import CodecMod
from argosy_common.flower.messages import dump_message, load_message
from argosy_common.flower.state import read_state, write_state
from argosy_common.wire.envelope import new_id
from tests.grids import BareGrid

App = Callable[[Message, Context], Message]


class WireGrid(BareGrid):
    """Each node has a store and a context file of its own; nothing else of it lives from message to message."""

    def __init__(self, folder: Path, app: App | ClientApp, nodes: Iterable[int] = (11, 12, 13)) -> None:
        compat.become_task(run_id=1, node_id=1)
        self.folder = folder
        self.app = app
        self.nodes = list(nodes)
        self.ours = BlobStore(folder / "coordinator")
        self.up: dict[int, int] = {}
        self.down: dict[int, int] = {}
        self.sent: list[Message] = []
        self.tamper: Callable[[int, Message], None] = lambda *_: None
        self.mod: Callable[..., Message] = CodecMod(lambda: np.random.default_rng(len(self.sent)))
        self._replies: dict[str, Message] = {}

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            compat.set_message_id(message, new_id())
            self.sent.append(message)
            ids.append(message.metadata.message_id)
            self._replies[message.metadata.message_id] = self._answer(message)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(each) for each in list(message_ids)[:1] if each in self._replies]

    def send_and_receive(
        self,
        messages: Iterable[Message],
        *,
        timeout: float | None = None,  # noqa: ARG002  (here at once)
    ) -> Iterable[Message]:
        return [self._replies.pop(each) for each in self.push_messages(messages)]

    def forget(self, node: int) -> None:
        """Let a node lose its context, as a board whose card is replaced."""
        self._context(node).unlink()

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        theirs = BlobStore(self.folder / str(node))
        self.down[node] = self._travel(message, theirs)
        arrived = load_message(dump_message(message, theirs).flower, theirs)
        compat.set_message_id(arrived, message.metadata.message_id)
        state = read_state(self._context(node)) if self._context(node).exists() else RecordDict()
        context = Context(run_id=1, node_id=node, node_config={}, state=state, run_config={})
        try:
            reply = self.mod(arrived, context, self.app)
        except Exception as error:  # noqa: BLE001  # as on a SuperNode: what is raised becomes an error reply
            return Message(Error(1, str(error)), reply_to=message)
        write_state(context.state, self._context(node))
        self.tamper(node, reply)
        self.up[node] = self._travel(reply, self.ours)
        return compat.addressed(load_message(dump_message(reply, self.ours).flower, self.ours), compat.head_of(message))

    def _context(self, node: int) -> Path:
        return self.folder / f"{node}.context"

    @staticmethod
    def _travel(message: Message, store: BlobStore) -> int:
        dumped = dump_message(message, store)
        return len(dumped.flower) + sum(ref.size for ref in dumped.blobs)


def model(seed: int = 0) -> ArrayRecord:
    """A model with everything in it: weights, short vectors, a counter, flags, an embedding of three."""
    rng = np.random.default_rng(seed)
    record = ArrayRecord()
    for name, array in {
        "conv.weight": rng.standard_normal((16, 8, 5)).astype(np.float32),
        "conv.bias": rng.standard_normal(16).astype(np.float32),
        "norm.running_var": rng.random(100).astype(np.float32),
        "norm.num_batches_tracked": np.array(7, np.int64),
        "mask": np.array([[True, False], [False, True]]),
        "embedding": rng.standard_normal((1, 3)).astype(np.float32),
        "dense.weight": rng.standard_normal((70, 90)).astype(np.float32),
        "double.weight": rng.standard_normal((10, 20)),
        "half.weight": rng.standard_normal((10, 20)).astype(np.float16),
    }.items():
        record[name] = Array(np.asarray(array))
    return record


def train_messages(grid: Grid, arrays: ArrayRecord, *, kind: str = "train", number: int = 1) -> list[Message]:
    """Messages as FedAvg makes them: one content for all."""
    content = RecordDict({"arrays": arrays, "config": ConfigRecord({"server-round": number, "lr": 0.1})})
    return [Message(content, node, kind) for node in grid.get_node_ids()]


def nudged(message: Message, context: Context) -> Message:
    """An app that adds a little noise of its own to every weight, counts its batches, and weighs by its number."""
    assert list(message.content) == ["config", "arrays"] or list(message.content) == ["arrays", "config"]
    assert not [name for name in context.state if name.startswith("argosy")]
    rng = np.random.default_rng(context.node_id)
    received = message.content.array_records["arrays"]
    made = ArrayRecord()
    for name, array in received.items():
        values = array.numpy()
        if values.dtype.kind == "f":
            values = (values + 0.01 * rng.standard_normal(values.shape)).astype(values.dtype)
        elif values.dtype.kind == "i":
            values = values + 1
        made[name] = Array(np.asarray(values))
    metrics = MetricRecord({"num-examples": context.node_id, "loss": 1.0 / context.node_id})
    content = RecordDict({"metrics": metrics})
    if message.metadata.message_type == "train":
        content = RecordDict({"arrays": made, "metrics": metrics})
    return Message(content, reply_to=message)


def nudge_of(node: int, received: ArrayRecord) -> dict[str, np.ndarray[Any, Any]]:
    """What `nudged` returns on a node for a model, without any wire."""
    message = Message(RecordDict({"arrays": received, "config": ConfigRecord({})}), node, "train")
    context = Context(run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={})
    reply = nudged(message, context)
    return {name: array.numpy() for name, array in reply.content.array_records["arrays"].items()}
