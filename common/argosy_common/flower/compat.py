"""The only module that imports what Flower does not publish (DESIGN.md, "Who may import whom").

Flower changes its private parts in minor releases; `tests/common/flower/test_compat.py` pins each thing relied on here.
Written for flwr 1.41.
"""

from __future__ import annotations

import functools
import inspect
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from flwr.app import ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode, SType
from flwr.common.serde import message_from_proto, message_to_proto, recorddict_from_proto, recorddict_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from flwr.serverapp.strategy import (
    Bulyan,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    MultiKrum,
    Result,
    Strategy,
)
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords
from flwr.supercore.logger import LOGGER_NAME
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from google.protobuf.message import (  # type: ignore[import-untyped]  # ships no types; Flower brings it
    DecodeError,
    EncodeError,
)

from argosy_common.errors import ArgosyError

NUMPY_STYPE: str = SType.NUMPY
"""The serialisation name of arrays whose bytes are a `.npy` file."""

MAX_REASON = 8000
"""Characters of an error's reason that travel."""

_BAD_BYTES = (DecodeError, ValueError, TypeError, AttributeError, KeyError, OverflowError)
_BAD_VALUES = (EncodeError, ValueError, TypeError, AttributeError, OverflowError)

_ERROR_CODES = {
    "app-import-failed": ErrorCode.LOAD_CLIENT_APP_EXCEPTION,
    "app-bundle-invalid": ErrorCode.INVALID_FAB,
    "app-raised": ErrorCode.CLIENT_APP_RAISED_EXCEPTION,
    "worker-died": ErrorCode.CLIENT_APP_CRASHED,
    "worker-out-of-memory": ErrorCode.CLIENT_APP_CRASHED,
    "worker-timed-out": ErrorCode.CLIENT_APP_CRASHED,
    "instruction-expired": ErrorCode.MESSAGE_UNAVAILABLE,
    "reply-timed-out": ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
    "device-lost": ErrorCode.NODE_UNAVAILABLE,
}

Evaluate = Callable[[int, ArrayRecord], MetricRecord | None]
"""An app's own evaluation of the model after a round; 0: of the initial model."""
Metrics = dict[str, int | float | list[int] | list[float]]


def become_task(*, run_id: int, node_id: int, task_id: int = 1) -> None:
    """Say who this process is; without it `Message(...)` raises. One identity a process, hence a process a run."""
    TaskIdentity.run_id = run_id
    TaskIdentity.node_id = node_id
    TaskIdentity.task_id = task_id


def empty_run(run_id: int) -> Run:
    """Return the `Run` that `Grid.set_run` takes and `Grid.run` returns."""
    return Run.create_empty(run_id)


def set_message_id(message: Message, message_id: str) -> None:
    """Give a message its id, which Flower leaves to the transport."""
    message.metadata.__dict__["_message_id"] = message_id


def set_reply_life(reply: Message, *, created_at: float, ttl: float) -> None:
    """Let a reply live as long as its instruction, in the coordinator's time; a device's clock may be at 1970."""
    reply.metadata.created_at = created_at
    reply.metadata.ttl = ttl


def head_of(message: Message) -> Message:
    """Return `message` with an empty content: enough to reply to, and without its arrays."""
    return make_message(message.metadata, content=RecordDict())


def addressed(reply: Message, head: Message) -> Message:
    """Return `reply` with the metadata of a reply to `head`, whatever its sender wrote there.

    A device cannot answer in another's name, for another message, or from 1970.
    """
    answer = Message(reply.content, reply_to=head) if reply.has_content() else Message(reply.error, reply_to=head)
    set_message_id(answer, reply.metadata.message_id)
    return answer


def with_content(message: Message, content: RecordDict) -> Message:
    """Return `message` with another content; its metadata are the same object, so that both learn its id."""
    return make_message(message.metadata, content=content)


def error_reply(message: Message, error: ArgosyError) -> Message:
    """Return the reply to `message` that tells a strategy of `error`; the reason begins with the error's code."""
    code = _ERROR_CODES.get(error.code, ErrorCode.UNKNOWN)
    return Message(Error(code=code, reason=f"{error.code}: {error.message}"), reply_to=message)


# --- bytes ----------------------------------------------------------------------------------------------------------


def head_to_bytes(message: Message) -> bytes:
    """Return the metadata and the error of a message, without its content; a long reason is cut.

    Raises:
        ValueError: a value that Flower's protobuf cannot hold.
    """
    try:
        error = message.error if message.has_error() else None
        if error is not None:
            error = Error(error.code, str(error.reason or "")[:MAX_REASON])
        bare = make_message(message.metadata, content=None if error else RecordDict(), error=error)
        data: bytes = message_to_proto(bare).SerializeToString(deterministic=True)
        return data
    except _BAD_VALUES as error:
        raise ValueError(f"its metadata cannot be encoded: {error}") from error


def message_from_parts(head: bytes, content: RecordDict | None) -> Message:
    """Return the message of `head_to_bytes` with its content put back; `content` is None for an error.

    Raises:
        ValueError: not the head of a message, or of one of the other sort.
    """
    try:
        message = message_from_proto(ProtoMessage.FromString(head))
    except _BAD_BYTES as error:
        raise ValueError(f"not the head of a Flower message: {error}") from error
    meta = message.metadata
    if not (math.isfinite(meta.created_at) and math.isfinite(meta.ttl)):
        raise ValueError("its time of creation or its life is not a number")
    if message.has_error() is not (content is None):
        raise ValueError("it must have either content or an error")
    return message if content is None else make_message(meta, content=content)


def content_to_bytes(content: RecordDict) -> bytes:
    """Return the records of `content` in their order, array records emptied (they travel as blobs).

    Raises:
        ValueError: a value that Flower's protobuf cannot hold.
    """
    hollow = RecordDict()
    for name, record in content.items():
        hollow[name] = ArrayRecord() if isinstance(record, ArrayRecord) else record
    try:
        data: bytes = recorddict_to_proto(hollow).SerializeToString(deterministic=True)
        return data
    except _BAD_VALUES as error:
        raise ValueError(f"its records cannot be encoded: {error}") from error


def content_from_bytes(data: bytes) -> RecordDict:
    """Return the records of `content_to_bytes`; array records are empty and to be filled by the caller.

    Raises:
        ValueError: not records.
    """
    try:
        return recorddict_from_proto(ProtoRecordDict.FromString(data))
    except _BAD_BYTES as error:
        raise ValueError(f"not Flower records: {error}") from error


# --- strategies -----------------------------------------------------------------------------------------------------

_MEANS = (FedAvg, FedAvgM, FedAdam, FedAdagrad, FedYogi, FedProx)
_ROBUST = (FedMedian, FedTrimmedAvg, MultiKrum, Bulyan)  # Krum is a MultiKrum


@dataclass(frozen=True)
class StrategyTraits:
    """What a strategy does with the replies to `train`.

    Attributes:
        name: its class.
        weight_key: the metric by which it weights replies, if all it ever takes of them is the weighted mean of their
            arrays and metrics, so that one reply may stand for all; None for every other strategy, and for one that
            we do not know.
        takes_sparse: whether updates may leave most coordinates out. A median, or a choice among updates, may not be
            taken of such.
        averages: as `weight_key`, but for how it aggregates metrics, which may be the app's own function.
    """

    name: str
    weight_key: str | None
    takes_sparse: bool
    averages: str | None


def traits_of(strategy: Strategy) -> StrategyTraits:
    """Return what is known of a strategy; a strategy may wrap another as `.strategy`."""
    inner = getattr(strategy, "strategy", None)
    sparse = not isinstance(strategy, _ROBUST) and (not isinstance(inner, Strategy) or traits_of(inner).takes_sparse)
    averages = _averages(strategy)
    plain = isinstance(strategy, FedAvg) and strategy.train_metrics_aggr_fn is aggregate_metricrecords
    return StrategyTraits(type(strategy).__name__, averages if plain else None, sparse, averages)


def _averages(strategy: Strategy) -> str | None:
    """Return the metric by which a strategy weights, if all it takes of its replies' arrays is the weighted mean."""
    if not isinstance(strategy, FedAvg):
        return None
    own = type(strategy)
    means = {kind.aggregate_train for kind in _MEANS}
    checked = own._check_and_log_replies is FedAvg._check_and_log_replies
    return strategy.weighted_by_key if own.aggregate_train in means and checked else None


def mean_metrics(records: list[RecordDict], weight_key: str) -> MetricRecord:
    """Return the weighted mean of the metrics of replies as Flower's strategies take it, without the weight itself.

    Raises:
        ValueError, TypeError, KeyError: replies whose metrics do not go together.
    """
    return aggregate_metricrecords(records, weight_key)


@dataclass(frozen=True)
class StrategyStart:
    """What is known when a strategy starts.

    Attributes:
        name: the strategy's class.
        rounds: how many the app asked for.
        min_nodes: the fewest nodes with which a round begins, or None where the strategy does not say.
        timeout_s: the app's bound on each phase.
        traits: what it does with replies.
    """

    name: str
    rounds: int
    min_nodes: int | None
    timeout_s: float
    traits: StrategyTraits


class StrategyObserver(Protocol):
    """What the run process learns of the user's strategy, in the thread that runs it. May raise: it ends the run."""

    def starting(self, start: StrategyStart) -> int | None:
        """Return the number of rounds to run in place of the app's, or None."""
        ...

    def instead(self, strategy: Strategy) -> Strategy:
        """Return the strategy that is started in the place of the app's, by default that itself."""
        ...

    def evaluation(self, strategy: Strategy, evaluate: Evaluate) -> Evaluate:
        """Return what is called in the place of the app's own evaluation, by default that itself."""
        ...

    def waiting(self, online: int, wanted: int) -> None:
        """`sample_nodes` found too few nodes; called about once a second while that lasts."""
        ...

    def central(self, round_: int, metrics: Metrics) -> None:
        """The app evaluated the model of a round itself (0: the initial model)."""
        ...

    def finished(self, arrays: ArrayRecord) -> None:
        """The strategy returned its result; `arrays` is the final model, empty if no round ever aggregated."""
        ...


def observe_strategies(observer: StrategyObserver, kinds: Sequence[type[Strategy]] = (Strategy,)) -> Callable[[], None]:
    """Tell `observer` of every strategy that starts in this process; return what undoes it.

    `kinds` are the classes with a `start` of their own.
    """
    originals = {kind: kind.start for kind in kinds}
    waiting = _WaitingFilter(observer)
    logger = logging.getLogger(LOGGER_NAME)
    logger.addFilter(waiting)
    for kind, original in originals.items():
        kind.start = _observing(original, observer)  # type: ignore[method-assign]  # Flower has no hook here

    def undo() -> None:
        for kind, original in originals.items():
            kind.start = original  # type: ignore[method-assign]  # as above
        logger.removeFilter(waiting)

    return undo


def _observing(original: Callable[..., Result], observer: StrategyObserver) -> Callable[..., Result]:
    """Return a strategy's `start` that tells the observer, and starts what it has in the strategy's place."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    def start(self: Strategy, *args: Any, **kwargs: Any) -> Result:  # noqa: ANN401  (Flower's own signature)
        call = signature.bind(self, *args, **kwargs)
        call.apply_defaults()
        given = call.arguments
        rounds = observer.starting(
            StrategyStart(
                type(self).__name__, given["num_rounds"], _fewest_nodes(self), given["timeout"], traits_of(self)
            )
        )
        given["num_rounds"] = given["num_rounds"] if rounds is None else rounds
        taken = observer.instead(self)
        if given["evaluate_fn"] is not None:
            given["evaluate_fn"] = observer.evaluation(taken, _observed(given["evaluate_fn"], observer))
        if taken is self:
            result = original(*call.args, **call.kwargs)
        else:
            # its own, unobserved: what it is called with was observed here
            inner = inspect.unwrap(type(taken).start)
            result = inner(taken, *call.args[1:], **call.kwargs)
        observer.finished(result.arrays)
        return result

    return start


def runs_flowers_loop(strategy: Strategy) -> bool:
    """Tell whether a strategy's rounds are gone through by Flower's own `Strategy.start`."""
    return inspect.unwrap(type(strategy).start) is inspect.unwrap(Strategy.start)


def _observed(evaluate: Evaluate, observer: StrategyObserver) -> Evaluate:
    def evaluate_and_tell(round_: int, arrays: ArrayRecord) -> MetricRecord | None:
        metrics = evaluate(round_, arrays)
        if metrics is not None:
            observer.central(round_, dict(metrics))
        return metrics

    return evaluate_and_tell


def _fewest_nodes(strategy: object) -> int | None:
    """Return the most that any of a strategy's minima asks for; a strategy may wrap another as `.strategy`."""
    wanted: list[int] = []
    for name in ("min_available_nodes", "min_train_nodes", "min_evaluate_nodes"):
        value = getattr(strategy, name, None)
        if isinstance(value, int):
            wanted.append(value)
    inner = getattr(strategy, "strategy", None)
    if isinstance(inner, Strategy) and (deeper := _fewest_nodes(inner)) is not None:
        wanted.append(deeper)
    return max(wanted, default=None)


class _WaitingFilter(logging.Filter):
    """Reads the numbers out of the line that `sample_nodes` logs, which is all it tells while it waits."""

    _LINE = "Waiting for nodes to connect: "

    def __init__(self, observer: StrategyObserver) -> None:
        super().__init__()
        self._observer = observer

    def filter(self, record: logging.LogRecord) -> bool:
        """Always let the record pass."""
        if isinstance(record.msg, str) and record.msg.startswith(self._LINE) and isinstance(record.args, tuple):
            online, wanted = record.args
            if isinstance(online, int) and isinstance(wanted, int):
                self._observer.waiting(online, wanted)
        return True
