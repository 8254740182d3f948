"""Whole runs in this process: a Flower grid that calls the client app, and an observer of the strategy."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import uuid4

from flwr.app import ArrayRecord, Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import Strategy

from argosy_common.flower.compat import Evaluate, Metrics, StrategyStart, set_message_id
from tests.grids import BareGrid


class LoopbackGrid(BareGrid):
    """Hands each message to the client app at once, with the context of the device it is for."""

    def __init__(self, app: ClientApp, contexts: dict[int, Context]) -> None:
        self.app = app
        self.contexts = contexts
        self.sent: list[tuple[int, str]] = []
        self._replies: dict[str, Message] = {}

    def get_node_ids(self) -> Iterable[int]:
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        names = []
        for message in messages:
            set_message_id(message, uuid4().hex)
            node = message.metadata.dst_node_id
            self.sent.append((node, message.metadata.message_type))
            try:
                reply = self.app(message, self.contexts[node])
            except Exception as error:  # noqa: BLE001  # what an app raises becomes an error reply
                reply = Message(Error(1, repr(error)), reply_to=message)
            self._replies[message.metadata.message_id] = reply
            names.append(message.metadata.message_id)
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(name) for name in message_ids]

    def send_and_receive(
        self,
        messages: Iterable[Message],
        *,
        timeout: float | None = None,  # noqa: ARG002  # Flower's signature; replies are here at once
    ) -> Iterable[Message]:
        return self.pull_messages(self.push_messages(messages))


class Observer:
    """Keeps what a strategy's run showed: central accuracies by round, and the final model."""

    def __init__(self) -> None:
        self.accuracies: list[float] = []
        self.final = ArrayRecord()

    def starting(self, _start: StrategyStart) -> None:
        self.accuracies.clear()

    def evaluation(self, strategy: Strategy, evaluate: Evaluate) -> Evaluate:  # noqa: ARG002  (the protocol's)
        return evaluate

    def instead(self, strategy: Strategy) -> Strategy:
        return strategy

    def waiting(self, online: int, wanted: int) -> None:
        raise AssertionError(f"{online} devices, {wanted} wanted")

    def central(self, round_: int, metrics: Metrics) -> None:
        assert round_ == len(self.accuracies)
        self.accuracies.append(float(str(metrics["accuracy"])))

    def finished(self, arrays: ArrayRecord) -> None:
        self.final = arrays
