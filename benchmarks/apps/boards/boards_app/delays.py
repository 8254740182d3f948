"""Delays as boards have them, drawn from seeds: what a training takes beside its arithmetic.

A mod sleeps before each training. How long says `delay`, of the board's own configuration (`node_config`) or else of
the run's:

    exponential:MEAN            each training its own, exponentially distributed
    fixed:SECONDS               always the same
    slow:SECONDS:SHARE:FACTOR   drawn once a board: with probability SHARE it takes FACTOR times as long, always
    onoff:SECONDS:ON:OFF        a training takes SECONDS while the board is on; it goes off and on by turns, for
                                exponentially distributed times of these means, and while it is off nothing happens

Draws come from the board's `seed` (its node id where it has none) and the round: the same fleet has the same delays in
every run. On and off times are counted from the run's `since`, in seconds of the monotonic clock, which is the same for
all processes of a machine.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable

_NUMBER = re.compile(r"\d+(?:\.\d+)?")


class Delay(Protocol):
    """How long a training takes beside its arithmetic."""

    def seconds(self, seed: int, server_round: int, at_s: float) -> float:
        """Return the delay of the board with this seed in this round; it begins `at_s` seconds into the run."""


@dataclass(frozen=True)
class Exponential:
    """Another delay each round, of this mean."""

    mean: float

    def seconds(self, seed: int, server_round: int, at_s: float) -> float:  # noqa: ARG002  (the protocol's)
        """See `Delay`."""
        return random.Random(f"{seed}/{server_round}").expovariate(1 / self.mean) if self.mean else 0.0


@dataclass(frozen=True)
class Fixed:
    """The same delay always."""

    delay: float = 0.0

    def seconds(self, seed: int, server_round: int, at_s: float) -> float:  # noqa: ARG002  (the protocol's)
        """See `Delay`."""
        return self.delay


@dataclass(frozen=True)
class Slow:
    """A board is slow with a probability, and then for ever."""

    delay: float
    share: float
    factor: float

    def is_slow(self, seed: int) -> bool:
        """Whether the board with this seed is a slow one."""
        return random.Random(f"{seed}").random() < self.share

    def seconds(self, seed: int, server_round: int, at_s: float) -> float:  # noqa: ARG002  (the protocol's)
        """See `Delay`."""
        return self.delay * self.factor if self.is_slow(seed) else self.delay


@dataclass(frozen=True)
class OnOff:
    """A board that is on and off by turns; a training goes on where it stood when the board comes back."""

    delay: float
    on: float
    off: float

    def seconds(self, seed: int, server_round: int, at_s: float) -> float:  # noqa: ARG002  (the protocol's)
        """See `Delay`."""
        draws = random.Random(f"{seed}")
        # when the run begins, as likely off as at any other time
        on_from = draws.expovariate(1 / self.off) if draws.random() * (self.on + self.off) < self.off else 0.0
        left = self.delay
        while True:
            off_from = on_from + draws.expovariate(1 / self.on)
            began = max(at_s, on_from)
            if began + left <= off_from:
                return began + left - at_s
            left -= max(off_from - began, 0.0)
            on_from = off_from + draws.expovariate(1 / self.off)


_KINDS: dict[str, tuple[str, Callable[..., Delay]]] = {
    "exponential": ("exponential:MEAN", Exponential),
    "fixed": ("fixed:SECONDS", Fixed),
    "slow": ("slow:SECONDS:SHARE:FACTOR", Slow),
    "onoff": ("onoff:SECONDS:ON:OFF", OnOff),
}


def parse_delay(text: str) -> Delay:
    """Return the delay that a configuration asks for; the empty one is none.

    Raises:
        ValueError: it is none of the forms above, or a number is out of its range.
    """
    if not text:
        return Fixed()
    kind, *numbers = text.split(":")
    if kind not in _KINDS:
        raise ValueError(f"the delay '{text}' is of no known kind: {', '.join(form for form, _ in _KINDS.values())}")
    form, make = _KINDS[kind]
    if len(numbers) != form.count(":") or not all(map(_NUMBER.fullmatch, numbers)):
        raise ValueError(f"the delay '{text}' is not of the form {form}, with plain numbers such as 0.5")
    delay = make(*map(float, numbers))
    if isinstance(delay, Slow) and delay.share > 1:
        raise ValueError(f"the delay '{text}': the share of slow boards is at most 1")
    if isinstance(delay, OnOff) and not (delay.on and delay.off):
        raise ValueError(f"the delay '{text}': the times on and off are more than 0")
    return delay


def delay_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Sleep before a training for as long as the configuration says."""
    if message.metadata.message_type.split(".")[0] == "train":
        run, node = context.run_config, context.node_config
        delay = parse_delay(str(node.get("delay", run["delay"])))
        seed = int(node.get("seed", context.node_id))
        time.sleep(delay.seconds(seed, server_round(message), time.monotonic() - float(run["since"])))
    return call_next(message, context)


def server_round(message: Message) -> int:
    """Return the round that a message's configuration tells; 0 where it tells none."""
    told = [record["server-round"] for record in message.content.config_records.values() if "server-round" in record]
    return int(str(told[0])) if told else 0
