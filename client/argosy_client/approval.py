"""Waiting for an operator, where a token does not let a board in by itself.

The same request is sent again, ever less often and at random times. Nothing is lost when the wait ends, by Ctrl-C or by
itself: the same join command goes on with it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from argosy_common.backoff import Backoff
from argosy_common.clock import Clock
from argosy_common.errors import ApprovalPending, EnrolmentUnreachable, TooManyAttempts
from argosy_common.logs import get_logger

log = get_logger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """How a join waits, and how it says so."""

    seconds: float = 0.0
    """At most so long; 0: ask once."""
    say: Callable[[str], None] = lambda _text: None
    sleep: Callable[[float], None] = time.sleep
    rng: random.Random = field(default_factory=random.SystemRandom)


def until_decided(ask: Callable[[], T], patience: Patience, clock: Clock) -> T:
    """Return the answer of `ask`, asked again while an operator has not decided.

    Once the request is known to wait, a coordinator that does not answer for a while is waited for as well.

    Raises:
        ApprovalPending: nobody decided within `patience`.
        ArgosyError: as `ask` does.
    """
    ends = clock.monotonic() + patience.seconds
    backoff = Backoff(patience.rng, base=4.0, cap=30.0, floor=2.0)
    waits_for: ApprovalPending | None = None
    while True:
        try:
            return ask()
        except ApprovalPending as pending:
            if waits_for is None and patience.seconds > 0:
                patience.say(
                    f"{pending.message} Waiting for `argosy device approve {pending.facts.get('device', '')}`."
                )
            waits_for = pending
        except (EnrolmentUnreachable, TooManyAttempts) as error:
            if waits_for is None:
                raise
            log.warning("join.wait_goes_on", code=error.code, why=error.message)
        left = ends - clock.monotonic()
        if left <= 0:
            raise waits_for
        patience.sleep(min(left, backoff.next()))
