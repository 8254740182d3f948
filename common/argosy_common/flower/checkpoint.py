"""A strategy that can be gone on with: what it has reached is told after every phase, and put back after a crash.

    Checkpointed(strategy, done=…, keep=…)

Flower's own loop (`Strategy.start`) runs over it from round 1. Phases that are done are answered from the record, and
ask no device; before the first that is not, the strategy and the generators of random numbers are put back to where
they were. So the loop, the result and its history come out as if nothing had happened.

What is put back of a strategy are those of its attributes that have changed since it was made (moments of an optimiser,
for instance), and of one that it wraps. Generators are those of `random`, numpy and torch that are global to the
process; an app's own begin anew. The record is pickled: it is read by nobody but the process of the same app, which the
operator trusts to run, from the coordinator's own folder.
"""

from __future__ import annotations

import pickle
import random
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from argosy_common.flower.compat import Evaluate
from argosy_common.flower.rounds import PHASES
from argosy_common.logs import get_logger

log = get_logger(__name__)

TRAIN, EVALUATE = PHASES
Phase = tuple[int, str]
"""A round and `train` or `evaluate`; in this order they are gone through."""


@dataclass(frozen=True)
class Record:
    """What a strategy has reached: its history, and what it takes to go on. The global arrays are kept apart."""

    done: Phase = (0, EVALUATE)
    """The last phase that is."""
    train: Mapping[int, MetricRecord | None] = field(default_factory=dict)
    """What each round's training came to, in metrics."""
    evaluate: Mapping[int, MetricRecord | None] = field(default_factory=dict)
    central: Mapping[int, MetricRecord | None] = field(default_factory=dict)
    """What the app's own evaluation came to, by round."""
    state: Mapping[str, Any] = field(default_factory=dict)
    """Of the strategy's attributes, pickled; see `changed`."""
    generators: Mapping[str, Any] = field(default_factory=dict)

    def pack(self) -> bytes:
        """Return the record as bytes."""
        return pickle.dumps(self, protocol=5)

    @classmethod
    def unpack(cls, data: bytes) -> Record:
        """Return what `pack` wrote, in a process of the same app."""
        record = pickle.loads(data)  # noqa: S301  (our own file; see the module)
        if not isinstance(record, cls):
            raise TypeError("it is no record of a strategy")
        return record

    def is_done(self, phase: Phase) -> bool:
        """Tell whether a phase is behind."""
        return (phase[0], PHASES.index(phase[1])) <= (self.done[0], PHASES.index(self.done[1]))


class Checkpointed(Strategy):
    """See the module.

    Args:
        strategy: the app's.
        done: what it had reached, with the global arrays of then; None: it begins.
        keep: is given the record after every phase, with the global arrays where they are new; must not return before
            both are safe.
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        done: tuple[Record, ArrayRecord | None] | None,
        keep: Callable[[Record, ArrayRecord | None], None],
    ) -> None:
        self.strategy = strategy
        self._record, self._arrays = done or (Record(), None)
        self._keep = keep
        self._fresh = fingerprints(strategy)
        self._behind = done is not None

    # --- Flower's interface

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """See `Strategy.configure_train`; of a phase that is done, no message."""
        if self._record.is_done((server_round, TRAIN)):
            return []
        self._catch_up()
        return self.strategy.configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """See `Strategy.aggregate_train`."""
        if self._record.is_done((server_round, TRAIN)):
            last = server_round == self._record.done[0]
            return (self._arrays if last else None), self._record.train.get(server_round)
        arrays, metrics = self.strategy.aggregate_train(server_round, replies)
        self._arrays = arrays if arrays is not None else self._arrays
        self._note(
            replace(self._record, done=(server_round, TRAIN), train={**self._record.train, server_round: metrics}),
            arrays,
        )
        return arrays, metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """See `Strategy.configure_evaluate`; of a phase that is done, no message."""
        if self._record.is_done((server_round, EVALUATE)):
            return []
        self._catch_up()
        return self.strategy.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """See `Strategy.aggregate_evaluate`."""
        if self._record.is_done((server_round, EVALUATE)):
            return self._record.evaluate.get(server_round)
        metrics = self.strategy.aggregate_evaluate(server_round, replies)
        self._note(
            replace(
                self._record, done=(server_round, EVALUATE), evaluate={**self._record.evaluate, server_round: metrics}
            ),
            None,
        )
        return metrics

    def summary(self) -> None:
        """See `Strategy.summary`."""
        self.strategy.summary()

    # --- the app's own evaluation

    def central(self, evaluate: Evaluate) -> Evaluate:
        """Return an app's evaluation that is not done again for a round of which the result is known."""

        def evaluated(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
            if server_round in self._record.central:
                return self._record.central[server_round]
            self._catch_up()
            metrics = evaluate(server_round, arrays)
            self._record = replace(self._record, central={**self._record.central, server_round: metrics})
            return metrics

        return evaluated

    # --- inside

    def _note(self, record: Record, arrays: ArrayRecord | None) -> None:
        self._record = replace(record, state=changed(self.strategy, self._fresh), generators=generators())
        self._keep(self._record, arrays)

    def _catch_up(self) -> None:
        """Put everything back, once, before the first thing that is not done."""
        if self._behind:
            self._behind = False
            put_back(self.strategy, self._record.state)
            put_generators_back(self._record.generators)


# --- a strategy's attributes

_Fingerprints = dict[str, Any]


def fingerprints(strategy: Strategy) -> _Fingerprints:
    """Return what tells later which attributes have changed; None for one that cannot be pickled."""
    return {
        name: fingerprints(value) if isinstance(value, Strategy) else _fingerprint(value)
        for name, value in vars(strategy).items()
    }


def changed(strategy: Strategy, fresh: _Fingerprints) -> dict[str, Any]:
    """Return the attributes that have changed, pickled; of a strategy inside, a dictionary of its own.

    One that cannot be pickled, before or now, is told of and left: it is as the app makes it.
    """
    found: dict[str, Any] = {}
    for name, value in vars(strategy).items():
        before = fresh.get(name, "")
        if isinstance(value, Strategy):
            inner = changed(value, before if isinstance(before, dict) else {})
            if inner:
                found[name] = inner
            continue
        data = _pickled(value)
        if data is None:
            if before is not None:
                log.warning("checkpoint.attribute_left_out", strategy=type(strategy).__name__, attribute=name)
        elif sha256(data).digest() != before:
            found[name] = data
    return found


def put_back(strategy: Strategy, state: Mapping[str, Any]) -> None:
    """Give a strategy the attributes of `changed`."""
    for name, value in state.items():
        if isinstance(value, bytes):
            setattr(strategy, name, pickle.loads(value))  # noqa: S301  (our own file; see the module)
        else:
            put_back(getattr(strategy, name), value)


def _fingerprint(value: object) -> bytes | None:
    data = _pickled(value)
    return None if data is None else sha256(data).digest()


def _pickled(value: object) -> bytes | None:
    try:
        return pickle.dumps(value, protocol=5)
    except Exception as error:  # noqa: BLE001  (an app's object, which may raise anything)
        log.debug("checkpoint.not_pickled", kind=type(value).__name__, why=str(error))
        return None


# --- generators of random numbers


def generators() -> dict[str, Any]:
    """Return the state of the generators that are global to this process."""
    found: dict[str, Any] = {"random": random.getstate(), "numpy": np.random.get_state()}
    torch = sys.modules.get("torch")
    if torch is not None:
        found["torch"] = torch.get_rng_state().numpy()
    return found


def put_generators_back(state: Mapping[str, Any]) -> None:
    """Put them back."""
    if "random" in state:
        random.setstate(state["random"])
    if "numpy" in state:
        np.random.set_state(state["numpy"])
    torch = sys.modules.get("torch")
    if torch is not None and "torch" in state:
        torch.set_rng_state(torch.from_numpy(state["torch"]))
