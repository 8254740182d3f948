"""The coordinator's half: `CodecGrid`, a Grid around any Grid.

    from argosy_common.flower.codec.grid import CodecGrid

    strategy.start(grid=CodecGrid(grid, up="eden:2", down="int8", strategy=strategy), ...)

What the strategy sends goes out as changes to the model that each device holds; what it gets back is, to it, as if
nothing had been encoded: the model it sent plus the decoded update. Where the strategy only ever takes the weighted
mean of its replies, they are summed up as they arrive and it gets one reply with the mean, so that memory does not grow
with the number of devices. Every other strategy gets the single replies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from argosy_common.clock import Clock, SystemClock
from argosy_common.codec.registry import get_codec, get_single_codec
from argosy_common.errors import CodecUnsuitable, NoValidReply, ReplyInvalid
from argosy_common.flower import compat
from argosy_common.flower.codec.groups import CodecChoice, Group, fp32_size, group_arrays
from argosy_common.flower.codec.mean import RunningMean
from argosy_common.flower.codec.outgoing import Dispatch, Outbox
from argosy_common.flower.codec.plan import ReplyPlan
from argosy_common.flower.codec.replies import ReplyPart
from argosy_common.flower.codec.spill import spilled
from argosy_common.flower.layer import GridLayer
from argosy_common.flower.streaming import accepted, stream
from argosy_common.logs import get_logger

log = get_logger(__name__)


@dataclass
class Traffic:
    """What the arrays of one phase would have weighed at full precision, in bytes, over its devices that answered."""

    round: int | None
    phase: str
    fp32_up: int = 0
    fp32_down: int = 0


@dataclass
class _Phase:
    """One call of `send_and_receive`: what became of its replies."""

    mean: RunningMean | None = None
    weight_key: str = ""
    record: str = ""
    metrics: list[RecordDict] = field(default_factory=list)
    head: Message | None = None
    traffic: dict[tuple[int | None, str], Traffic] = field(default_factory=dict)
    lacking: list[Dispatch] = field(default_factory=list)


class CodecGrid(GridLayer):
    """See the module. Used by one thread, the server app's.

    Args:
        grid: where messages go, Flower's own or another layer.
        up, down: codecs of updates and of the model; "none" leaves a direction as it is.
        arrays: (pattern of array names, codec or "exact"), the first that fits counts, for both directions.
        strategy: the strategy that will use this grid; without it replies are never summed up.
        report: is told, at the end of each phase, what it would have weighed.
        spill_to: a folder where decoded single replies lie until they are used; None: they stay in memory.
        rng: the coordinator's own randomness.

    Raises:
        CodecUnknown: there is no such codec.
        CodecUnsuitable: it cannot be used in that direction, or by that strategy.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        up: str = "none",
        down: str = "none",
        arrays: Sequence[tuple[str, str]] = (),
        strategy: Strategy | None = None,
        report: Callable[[Traffic], None] | None = None,
        spill_to: Path | None = None,
        rng: np.random.Generator | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(grid)
        self._up = CodecChoice(up, tuple(arrays))
        self._down = CodecChoice(down, tuple(arrays))
        for choice, purpose in ((self._up, "updates"), (self._down, "the model")):
            for name in choice.names():
                get_single_codec(name, purpose)
        self._outbox = Outbox(self._up, self._down, rng or np.random.default_rng())
        self._report = report
        self._spill_to = spill_to
        self._clock = clock or SystemClock()
        self._weight_key: str | None = None
        self._pushed: dict[str, Dispatch] = {}
        self._groups: tuple[ArrayRecord, list[Group]] | None = None
        if strategy is not None:
            self.serve(compat.traits_of(strategy))

    def serve(self, strategy: compat.StrategyTraits) -> None:
        """Learn which strategy will use this grid: whether its replies may be summed up.

        Raises:
            CodecUnsuitable: a codec that this strategy cannot use.
        """
        sparse = next((codec for codec in map(get_codec, self._up.names()) if codec.sparse), None)
        if sparse is not None and not strategy.takes_sparse:
            why = "it looks at single updates, most of whose values this codec leaves out"
            raise CodecUnsuitable(codec=sparse.name, purpose=f"the strategy {strategy.name}", why=why)
        self._weight_key = strategy.weight_key

    @property
    def folds(self) -> bool:
        """Whether replies to `train` are summed up as they arrive."""
        return self._weight_key is not None

    def described(self) -> dict[str, object]:
        """Return what this grid does, as plain data: `{"up", "down", "arrays", "folded"}`."""
        arrays = [list(each) for each in self._up.arrays]
        return {"up": self._up.codec, "down": self._down.codec, "arrays": arrays, "folded": self.folds}

    # --- the Grid interface

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; what comes back is decoded one by one in `pull_messages`, and never summed up."""
        dispatches = self._outbox.prepare(list(messages))
        ids = list(self._grid.push_messages([each.message for each in dispatches]))
        self._pushed.update({name: each for name, each in zip(ids, dispatches, strict=True) if name})
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are here, decoded. A device that lacks the model is answered for by an error; what
        it is sent next brings the whole model.
        """
        phase = _Phase()
        replies = []
        for reply in self._grid.pull_messages(list(message_ids)):
            dispatch = self._pushed.pop(reply.metadata.reply_to_message_id, None)
            if dispatch is None:
                replies.append(reply)
                continue
            answer = accepted(reply, dispatch.head, partial(self._take_in, phase, dispatch))
            if phase.lacking:
                phase.lacking.clear()
                answer = compat.error_reply(dispatch.head, dispatch.missing())
            replies.append(answer)
        self._tell(phase)
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages and wait for their replies; see `Grid.send_and_receive`.

        Returns:
            The decoded replies; or, of replies that are summed up, one that stands for all valid ones, and the errors.

        Raises:
            UpdateNotFinite: the strategy's model holds NaN or infinity.
            NoValidReply: every device weighs nothing, or none has the model even when it is sent whole.
            As the grid around which this one is.
        """
        outgoing = list(messages)
        del messages
        if not outgoing:
            return []
        deadline = None if timeout is None else self._clock.monotonic() + timeout
        phase = self._begin(outgoing)
        replies = self._exchange(phase, self._outbox.prepare(outgoing), timeout)
        if phase.lacking:
            left = None if deadline is None else deadline - self._clock.monotonic()
            replies += self._send_whole(phase, left)
        self._tell(phase)
        return [*self._folded(phase), *replies]

    # --- one phase

    def _begin(self, messages: list[Message]) -> _Phase:
        """Decide whether the replies to these messages are summed up: all of one model, which is one record."""
        first = messages[0]
        records = dict(first.content.array_records)
        alike = all(
            _is_train(each) and [*map(id, each.content.array_records.values())] == [*map(id, records.values())]
            for each in messages
        )
        if self._weight_key is None or not alike or len(records) != 1:
            return _Phase()
        ((name, record),) = records.items()
        return _Phase(RunningMean(record, self._groups_of(record)), self._weight_key, name)

    def _exchange(self, phase: _Phase, dispatches: list[Dispatch], timeout: float | None) -> list[Message]:
        """Send, and return what is not part of the sum: errors, and single replies where nothing is summed up."""
        by_id: dict[str, Dispatch] = {}
        outgoing = [each.message for each in dispatches]

        def accept(reply: Message) -> Message:
            if not by_id:  # the grid below has given ids by now
                by_id.update({each.head.metadata.message_id: each for each in dispatches})
            dispatch = by_id.get(reply.metadata.reply_to_message_id)
            return reply if dispatch is None else self._take_in(phase, dispatch, reply)

        replies = stream(self._grid, outgoing, timeout=timeout, accept=accept, clock=self._clock)
        return [reply for reply in replies if not _is_taken(reply)]

    def _send_whole(self, phase: _Phase, left: float | None) -> list[Message]:
        """Send the whole model to the devices that turned out not to have the one their change is from."""
        again, phase.lacking = phase.lacking, []
        log.warning("codec.model_sent_whole", devices=[each.device for each in again])
        if left is not None and left <= 0:
            return _without_model(again)
        try:
            replies = self._exchange(phase, self._outbox.prepare([each.again() for each in again]), left)
        except NoValidReply as error:
            if phase.head is None:
                raise
            log.warning("codec.none_answered_again", why=error.message)  # others did, the first time
            return _without_model(again)
        return [*replies, *_without_model(phase.lacking)]

    def _take_in(self, phase: _Phase, dispatch: Dispatch, reply: Message) -> Message:
        """Take one valid reply in.

        Returns:
            The decoded reply; or, if it went into the sum or lacks its model, only its metrics, marked as taken.

        Raises:
            CodeMalformed, ReplyInvalid: it cannot be used; nothing of it is in the sum.
        """
        plan = ReplyPlan.taken_from(reply.content, peer=dispatch.device) or ReplyPlan()
        if plan.lacks:
            self._outbox.forget(dispatch)
            phase.lacking.append(dispatch)
            return _taken(reply, RecordDict())
        phase.head = phase.head or dispatch.head
        traffic = phase.traffic.setdefault((dispatch.round, dispatch.phase), Traffic(dispatch.round, dispatch.phase))
        traffic.fp32_down += self._outbox.delivered(dispatch)
        if phase.mean is not None:
            traffic.fp32_up += self._fold(phase, dispatch, plan, reply)
            metrics = RecordDict({name: it for name, it in reply.content.items() if isinstance(it, MetricRecord)})
            phase.metrics.append(metrics)
            return _taken(reply, metrics)
        if dispatch.encoded:
            reply.content = self._decode(dispatch, plan, reply.content)
        traffic.fp32_up += sum(fp32_size(record) for record in reply.content.array_records.values())
        return reply

    def _decode(self, dispatch: Dispatch, plan: ReplyPlan, content: RecordDict) -> RecordDict:
        """Return the content of a reply with its arrays as the app returned them, but for what the codec loses."""
        whole = RecordDict()
        for name, record in content.items():
            if isinstance(record, ArrayRecord) and name in plan.omitted:
                base = dispatch.base_of(name)
                part = ReplyPart(record, base, self._groups_of(base), plan.omitted[name], dispatch.device)
                whole[name] = part.whole() if self._spill_to is None else spilled(part.whole(), self._spill_to)
            else:
                whole[name] = record
        return whole

    def _fold(self, phase: _Phase, dispatch: Dispatch, plan: ReplyPlan, reply: Message) -> int:
        """Add a reply to the sum; return what its arrays weigh at full precision."""
        mean = phase.mean
        content = reply.content
        if mean is None or len(content.array_records) != 1:
            raise ReplyInvalid(why=f"it has {len(content.array_records)} records of arrays, not one")
        weight = _weight(content, phase.weight_key)
        ((name, record),) = content.array_records.items()
        part = ReplyPart(record, mean.base, mean.groups, plan.omitted.get(name), dispatch.device)
        updates, exact, omitted = part.update()
        if not mean.fits(exact, omitted):
            raise ReplyInvalid(why="its arrays have other names or shapes than those of the devices before it")
        if phase.metrics and _form(phase.metrics[0]) != _form(content):
            raise ReplyInvalid(why="its metrics have other names or lengths than those of the devices before it")
        mean.add(weight, updates, exact, omitted)
        phase.record = name
        coded = {each.name for group in mean.groups for each in group.members} - set(omitted)
        return fp32_size(exact) + fp32_size({each: mean.base[each] for each in coded})

    def _folded(self, phase: _Phase) -> list[Message]:
        """Return the one reply that stands for all that were summed up; none if there were none."""
        mean, head = phase.mean, phase.head
        if mean is None or head is None or not mean.count:
            return []
        if not mean.weight > 0:
            why = f"all devices report '{phase.weight_key}' as 0"
            raise NoValidReply(phase=head.metadata.message_type, round="of this phase", causes=why)
        metrics = compat.mean_metrics(phase.metrics, phase.weight_key)
        metrics[phase.weight_key] = mean.weight
        content = RecordDict({phase.record: mean.arrays(), next(iter(phase.metrics[0])): metrics})
        return [Message(content, reply_to=head)]

    def _groups_of(self, record: ArrayRecord) -> list[Group]:
        """Return the groups of updates to a model; remembers the last one's."""
        if self._groups is None or self._groups[0] is not record:
            self._groups = (record, group_arrays(record, self._up))
        return self._groups[1]

    def _tell(self, phase: _Phase) -> None:
        for traffic in phase.traffic.values():
            if self._report is not None:
                self._report(traffic)


def _without_model(dispatches: Iterable[Dispatch]) -> list[Message]:
    """Return the error replies of devices that do not have the model."""
    return [compat.error_reply(each.head, each.missing()) for each in dispatches]


def _weight(content: RecordDict, key: str) -> float:
    """Return a reply's weight. Raises `ReplyInvalid`."""
    if len(content.metric_records) != 1:
        raise ReplyInvalid(why=f"it has {len(content.metric_records)} records of metrics, not one")
    weight = next(iter(content.metric_records.values())).get(key)
    if not isinstance(weight, int | float) or not (math.isfinite(weight) and 0 <= weight < 2**53):
        raise ReplyInvalid(why=f"its metric '{key}', by which it is weighted, is {weight!r}")
    return weight


def _form(content: RecordDict) -> list[tuple[str, int | None]]:
    """Return the names of the metrics, and how many values each has if it is a list."""
    (record,) = content.metric_records.values()
    return sorted((name, len(value) if isinstance(value, list) else None) for name, value in record.items())


def _is_train(message: Message) -> bool:
    return message.metadata.message_type.split(".")[0] == "train"


_TAKEN = "_argosy_taken"


def _taken(reply: Message, content: RecordDict) -> Message:
    """Mark a reply as not to be handed on; the grid below sees it with this content."""
    reply.content = content
    reply.__dict__[_TAKEN] = True
    return reply


def _is_taken(reply: Message) -> bool:
    return _TAKEN in reply.__dict__
