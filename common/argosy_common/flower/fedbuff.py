"""FedBuff: federated learning without rounds (Nguyen et al., "Federated Learning with Buffered Asynchronous
Aggregation", AISTATS 2022).

    from argosy_common.flower.fedbuff import FedBuff

    FedBuff(FedAvg(...), buffer=10).start(grid=grid, initial_arrays=..., num_rounds=100)

Every device that is free trains the newest model, at its own pace. What it learnt is the change to the model that it
had got; `buffer` of those make one step of the model, each weighted down by how many steps it is old. A step takes the
place of a round: `num_rounds` are made, and `evaluate_fn` is called after each. How the mean of the changes becomes the
next model is for the strategy inside, which may be any that only ever takes the mean (FedAvg, FedAvgM, FedAdam …).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from logging import getLogger

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from argosy_common.clock import Clock, SystemClock
from argosy_common.errors import AsyncUnsuitable, NoValidReply, ReplyInvalid
from argosy_common.flower import compat
from argosy_common.flower.buffer import Buffer, Update
from argosy_common.flower.layer import wait_for
from argosy_common.flower.rounds import Report, device_id

log = getLogger("flwr")  # where Flower's strategies write, and so the run's log

LOOK_S = 2.0
"""How often it is looked for devices that came online."""
_OVERDUE_S = 60.0
"""Beyond its own timeout, after which a message is forgotten on a grid that does not answer for it."""

EvaluateFn = Callable[[int, ArrayRecord], MetricRecord | None]


@dataclass(frozen=True)
class _Flight:
    """A message under way."""

    node: int
    kind: str
    version: int
    base: ArrayRecord | None
    """The model that it carried, if it is to be trained."""
    sent_at: float


@dataclass
class _Course:
    """One call of `start`: how far it is."""

    grid: Grid
    arrays: ArrayRecord
    steps: int
    timeout: float
    train_config: ConfigRecord
    evaluate_config: ConfigRecord
    evaluate_fn: EvaluateFn | None
    buffer: Buffer
    result: Result = field(default_factory=Result)
    version: int = 0
    flights: dict[str, _Flight] = field(default_factory=dict)
    drawn: list[Message] = field(default_factory=list)
    """What the strategy inside would send of the newest version."""
    had: set[int] = field(default_factory=set)
    """The nodes that were given it."""
    evaluations: dict[int, list[Message]] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    """Of nodes, since the last step."""
    stepped_at: float = 0.0
    step_s: float = 0.0

    def nodes(self, kind: str) -> set[int]:
        """Return the nodes at work on one kind of message."""
        return {flight.node for flight in self.flights.values() if flight.kind == kind}


class FedBuff(Strategy):
    """See the module.

    Args:
        strategy: makes the messages, and the next model from the mean of the updates.
        buffer: updates that make a step. Never more than half of the devices at work, so that no step needs the slow.
        concurrency: devices that train at a time; 0: as many as the strategy inside draws for a round.
        staleness: an update that is s steps old counts (1 + s) ** −staleness.
        report: is told `async-step` and `async-evaluation`.

    Raises:
        AsyncUnsuitable: the strategy inside does not only take the mean.
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        buffer: int = 10,
        concurrency: int = 0,
        staleness: float = 0.5,
        report: Report | None = None,
        clock: Clock | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        traits = compat.traits_of(strategy)
        if traits.averages is None:
            why = "it looks at the single updates of a round; FedAvg, FedAvgM, FedProx, FedAdam, FedYogi do not"
            raise AsyncUnsuitable(what=f"the strategy {traits.name}", why=why)
        self.strategy = strategy
        self._weight_key = traits.averages
        self._plain = traits.weight_key is not None
        self._size = buffer
        self._concurrency = concurrency
        self._staleness = staleness
        self._report = report or (lambda _name, _data: None)
        self._clock = clock or SystemClock()
        self._sleep = sleep

    # --- Flower's interface: the strategy inside does it

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """See `Strategy.configure_train`."""
        return self.strategy.configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """See `Strategy.aggregate_train`."""
        return self.strategy.aggregate_train(server_round, replies)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """See `Strategy.configure_evaluate`."""
        return self.strategy.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """See `Strategy.aggregate_evaluate`."""
        return self.strategy.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        """Log what this strategy does."""
        log.info("\t├──> Asynchronous: steps of %d updates, staleness exponent %.2f", self._size, self._staleness)
        self.strategy.summary()

    def start(  # noqa: PLR0917  (Flower's signature)
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: EvaluateFn | None = None,
    ) -> Result:
        """Train until `num_rounds` steps are made; see `Strategy.start`.

        Args:
            timeout: seconds that one device may take over one message.

        Raises:
            NoValidReply: every device failed, and none is at work any more.
        """
        log.info("Starting FedBuff around %s:", type(self.strategy).__name__)
        self.summary()
        course = _Course(
            grid,
            initial_arrays,
            num_rounds,
            timeout,
            train_config or ConfigRecord(),
            evaluate_config or ConfigRecord(),
            evaluate_fn,
            Buffer(self._weight_key, self._staleness, plain=self._plain),
            stepped_at=self._clock.monotonic(),
        )
        self._evaluate_here(course)
        while course.version < course.steps:
            self._hand_out(course)
            self._wait(course)
            self._take(course)
        self._finish(course)
        return course.result

    # --- out

    def _hand_out(self, course: _Course) -> None:
        """Give the newest model to every device that is free and has not had it."""
        if not course.drawn:
            drawn = self.strategy.configure_train(course.version + 1, course.arrays, course.train_config, course.grid)
            course.drawn, course.had = list(drawn), set()
        if not course.drawn:
            raise NoValidReply(phase="train", round=course.version + 1, causes="the strategy asks no device")
        at_work = course.nodes("train")
        room = (self._concurrency or len(course.drawn)) - len(at_work)
        content, meta = course.drawn[0].content, course.drawn[0].metadata
        nodes = dict.fromkeys([each.metadata.dst_node_id for each in course.drawn])
        if room > 0 and self._concurrency == 0:
            nodes |= dict.fromkeys(course.grid.get_node_ids())
        free = [node for node in nodes if node not in at_work and node not in course.had][: max(0, room)]
        messages = [Message(content, node, meta.message_type, ttl=course.timeout) for node in free]
        course.had.update(free)
        self._push(course, messages, "train", course.version, course.arrays)

    def _push(
        self, course: _Course, messages: list[Message], kind: str, version: int, base: ArrayRecord | None
    ) -> None:
        if not messages:
            return
        now = self._clock.monotonic()
        for name, message in zip(course.grid.push_messages(messages), messages, strict=False):
            if name:  # Flower's own grid has none for a node that is gone
                course.flights[name] = _Flight(message.metadata.dst_node_id, kind, version, base, now)

    # --- in

    def _wait(self, course: _Course) -> None:
        wait_for(course.grid, list(course.flights), LOOK_S, self._sleep)

    def _take(self, course: _Course) -> None:
        """Take in what has arrived, and make a step when there is enough for one."""
        now = self._clock.monotonic()
        enough = self._enough(course)  # of those at work before any of these came back: they may have come together
        for reply in list(course.grid.pull_messages(list(course.flights))):
            flight = course.flights.pop(reply.metadata.reply_to_message_id, None)
            if flight is None:
                continue
            self._take_in(course, flight, reply, now - flight.sent_at)
            if len(course.buffer) >= enough and course.version < course.steps:
                self._step(course)
        for name, flight in list(course.flights.items()):
            if now - flight.sent_at > course.timeout + _OVERDUE_S:
                del course.flights[name]
                course.failures[flight.node] = f"did not answer within {round(now - flight.sent_at)} s"
        # once the newest model was handed out, and nobody is at work and nobody left to give it to
        stuck = course.drawn and not course.nodes("train") and course.had.issuperset(course.grid.get_node_ids())
        if stuck and len(course.buffer):
            self._step(course)
        elif stuck:
            causes = "; ".join(f"{device_id(node)}: {why}" for node, why in sorted(course.failures.items())[:5])
            raise NoValidReply(phase="train", round=course.version + 1, causes=causes or "nobody answered")

    def _take_in(self, course: _Course, flight: _Flight, reply: Message, seconds: float) -> None:
        if flight.kind == "evaluate":
            course.evaluations.setdefault(flight.version, []).append(reply)
            self._close_evaluation(course, flight.version)
        elif reply.has_error():
            course.failures[flight.node] = str(reply.error.reason)
            log.info("\t> Received error in reply from node %d: %s", flight.node, reply.error.reason)
        elif flight.base is not None:
            try:
                course.buffer.put(Update(flight.node, flight.version, flight.base, reply, seconds))
            except ReplyInvalid as error:
                course.failures[flight.node] = error.message
                log.info("\t> Refused the reply from node %d: %s", flight.node, error.message)

    def _enough(self, course: _Course) -> int:
        at_work = max(len(course.nodes("train")) + len(course.buffer), len(course.had))
        return max(1, min(self._size, at_work // 2))

    # --- a step

    def _step(self, course: _Course) -> None:
        """Make the next version of the model from what is in the buffer."""
        course.version += 1
        told = course.buffer.described(course.version - 1)
        replies = course.buffer.take(course.version - 1, course.arrays)
        arrays, metrics = self.strategy.aggregate_train(course.version, replies)
        now = self._clock.monotonic()
        course.step_s, course.stepped_at = now - course.stepped_at, now
        course.drawn, course.failures = [], {}
        if arrays is not None:
            course.arrays = course.result.arrays = arrays
        if metrics is not None:
            course.result.train_metrics_clientapp[course.version] = metrics
        log.info("[STEP %d] %d updates, %s", course.version, len(told), metrics)
        data = {"round": course.version, "seconds": course.step_s, "updates": told, "metrics": numbers(metrics)}
        self._report("async-step", data)
        self._evaluate_here(course)
        self._ask_evaluations(course)

    def _evaluate_here(self, course: _Course) -> None:
        metrics = course.evaluate_fn(course.version, course.arrays) if course.evaluate_fn else None
        if metrics is not None:
            log.info("\t└──> MetricRecord: %s", metrics)
            course.result.evaluate_metrics_serverapp[course.version] = metrics

    def _ask_evaluations(self, course: _Course) -> None:
        """Have the newest model evaluated by those drawn for it who are not at an evaluation still."""
        busy = course.nodes("evaluate")
        drawn = self.strategy.configure_evaluate(course.version, course.arrays, course.evaluate_config, course.grid)
        messages = [message for message in drawn if message.metadata.dst_node_id not in busy]
        for message in messages:
            message.metadata.ttl = course.timeout
        self._push(course, messages, "evaluate", course.version, None)

    def _close_evaluation(self, course: _Course, version: int, *, at_last: bool = False) -> None:
        """Aggregate the evaluations of a version once they are all here, or at last those that are."""
        waiting = any(flight.kind == "evaluate" and flight.version == version for flight in course.flights.values())
        if waiting and not at_last:
            return
        replies = course.evaluations.pop(version, [])
        metrics = self.strategy.aggregate_evaluate(version, replies)
        if metrics is not None:
            course.result.evaluate_metrics_clientapp[version] = metrics
            data = {"round": version, "metrics": numbers(metrics), "devices": len(replies)}
            self._report("async-evaluation", data)

    def _finish(self, course: _Course) -> None:
        """Wait for the last evaluations, as long as the last step took: who is slower is not waited for here either."""
        until = self._clock.monotonic() + max(1.0, course.step_s)
        course.flights = {name: flight for name, flight in course.flights.items() if flight.kind == "evaluate"}
        while course.flights and self._clock.monotonic() < until:
            wait_for(course.grid, list(course.flights), until - self._clock.monotonic(), self._sleep)
            for reply in list(course.grid.pull_messages(list(course.flights))):
                flight = course.flights.pop(reply.metadata.reply_to_message_id)
                self._take_in(course, flight, reply, 0.0)
        for version in sorted(course.evaluations):
            self._close_evaluation(course, version, at_last=True)


def numbers(metrics: MetricRecord | None) -> dict[str, float]:
    """Return the scalar metrics by name."""
    return {name: float(value) for name, value in (metrics or {}).items() if isinstance(value, int | float)}
