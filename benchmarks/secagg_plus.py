"""Flower's SecAgg+, its own client and server code, in this process and on plain vectors.

`SecAggPlusWorkflow` runs one round over a grid that hands each message to `secaggplus_mod` of the client it is for,
whose app trains nothing and returns its vector. Copies of messages, which here stand for the network, and the app
itself are nobody's time; all the rest is the server's or a client's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import Code, FitIns, FitRes, Parameters, Scalar, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.compat.common import recorddict_compat
from flwr.server import LegacyContext
from flwr.server.client_manager import ClientManager, SimpleClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.compat.grid_client_proxy import GridClientProxy
from flwr.server.strategy import FedAvg
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.serverapp import Grid
from numpy.typing import NDArray

from argosy_common.flower.compat import become_task
from benchmarks.cpu import Cpu

Vector = NDArray[np.float32]

_SERVER = 1
_EMPTY = Parameters([], "numpy.ndarray")
"""The model that the server sends: how it travels is not what is measured."""


@dataclass(frozen=True)
class SecAggPlus:
    """What one round came to; of clients, the mean of those that stayed.

    Attributes:
        mean: shape (d,), float64.
        client_s: CPU seconds of a client.
        server_s: CPU seconds of the server.
        bytes_up: that a client sends, as Flower's protobuf, without the transport's own.
        messages: that a client sends.
    """

    mean: NDArray[np.float64]
    client_s: float
    server_s: float
    bytes_up: float
    messages: int


def run_secagg_plus(vectors: Sequence[Vector], threshold: int, dropping: int) -> SecAggPlus:
    """Run one round over all clients; the last `dropping` vanish once they have shared their keys.

    Every client is every other's neighbour, as in a group of ours; weights are equal, all else is Flower's default.

    Args:
        vectors: one a client.
        threshold: how many shares reconstruct a secret.
        dropping: how many vanish.

    Raises:
        RuntimeError: the workflow gave the round up.
    """
    become_task(run_id=1, node_id=_SERVER)
    wire = _Wire(vectors, dropping)
    strategy = _First(cast("Grid", wire), wire.nodes)
    context = LegacyContext(_context(_SERVER), strategy=strategy, client_manager=SimpleClientManager())
    context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({WorkflowKey.CURRENT_ROUND: 1})
    context.state.array_records[MAIN_PARAMS_RECORD] = recorddict_compat.parameters_to_arrayrecord(
        _EMPTY, keep_input=True
    )
    workflow = SecAggPlusWorkflow(len(vectors), threshold, max_weight=1.0)
    with _quiet(), wire.cpu.of(_SERVER):
        workflow(cast("Grid", wire), context)
    if strategy.aggregate is None:
        raise RuntimeError("the workflow gave the round up")
    (mean,) = parameters_to_ndarrays(strategy.aggregate)
    return SecAggPlus(
        mean=mean,
        client_s=sum(wire.cpu.seconds[node] for node in wire.staying) / len(wire.staying),
        server_s=wire.cpu.seconds[_SERVER],
        bytes_up=sum(wire.bytes_up[node] for node in wire.staying) / len(wire.staying),
        messages=max(wire.messages.values()),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Flower's log from the benchmark's output."""
    log = logging.getLogger("flwr")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def _context(node: int) -> Context:
    return Context(run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={})


class _First(FedAvg):
    """Samples all nodes; takes the aggregate, which the workflow writes into every result, from the first of them."""

    def __init__(self, grid: Grid, nodes: Sequence[int]) -> None:
        super().__init__()
        self.aggregate: Parameters | None = None
        self._proxies = [GridClientProxy(node, grid, 1) for node in nodes]

    def configure_fit(
        self,
        server_round: int,  # noqa: ARG002
        parameters: Parameters,
        client_manager: ClientManager,  # noqa: ARG002
    ) -> list[tuple[ClientProxy, FitIns]]:
        return [(proxy, FitIns(parameters, {})) for proxy in self._proxies]

    def aggregate_fit(
        self,
        server_round: int,  # noqa: ARG002
        results: list[tuple[ClientProxy, FitRes]],
        failures: list[tuple[ClientProxy, FitRes] | BaseException],  # noqa: ARG002
    ) -> tuple[Parameters | None, dict[str, Scalar]]:
        self.aggregate = results[0][1].parameters
        return None, {}


class _Wire:
    """What the workflow needs of a grid, and the clients behind it."""

    def __init__(self, vectors: Sequence[Vector], dropping: int) -> None:
        self.cpu = Cpu()
        self.nodes = range(_SERVER + 1, _SERVER + 1 + len(vectors))
        self.staying = self.nodes[: len(vectors) - dropping]
        self.bytes_up = dict.fromkeys(self.nodes, 0)
        self.messages = dict.fromkeys(self.nodes, 0)
        self._vectors = dict(zip(self.nodes, vectors, strict=True))
        self._contexts = {node: _context(node) for node in self.nodes}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:  # noqa: ARG002
        """Let each client answer in turn, but for those that vanished."""
        with self.cpu.of(None):
            messages = list(messages)
            stage = str(messages[0].content.config_records[RECORD_KEY_CONFIGS][Key.STAGE])
            here = self.nodes if stage in (Stage.SETUP, Stage.SHARE_KEYS) else self.staying
            return [self._answer(message) for message in messages if message.metadata.dst_node_id in here]

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        # the copy that a network makes: the mod changes what it is sent, and one content is sent to all
        content = recorddict_from_proto(recorddict_to_proto(message.content))
        copied = Message(content, node, message.metadata.message_type, group_id=message.metadata.group_id)
        with self.cpu.of(node):
            reply: Message = secaggplus_mod(copied, self._contexts[node], self._train)
        self.bytes_up[node] += recorddict_to_proto(reply.content).ByteSize()
        self.messages[node] += 1
        return reply

    def _train(self, message: Message, _: Context) -> Message:
        with self.cpu.of(None):
            parameters = ndarrays_to_parameters([self._vectors[message.metadata.dst_node_id]])
            result = FitRes(Status(Code.OK, ""), parameters, 1, {})
            return Message(recorddict_compat.fitres_to_recorddict(result, keep_input=True), reply_to=message)
