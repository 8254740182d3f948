"""A message as handlers see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


def _nothing() -> None:
    """Acknowledge nothing: a QoS-0 message needs no answer."""


@dataclass(slots=True, eq=False)
class Delivery:
    """One message that arrived."""

    topic: str
    payload: bytes
    retain: bool = False
    """True for a message that the broker had kept, False for one published while we were subscribed."""
    on_acknowledge: Callable[[], None] = field(default=_nothing, repr=False)

    def acknowledge(self) -> None:
        """Tell the broker that this message is safe with us. Any thread, at any time; twice is harmless.

        Without it the broker delivers the message again at the next connection. Only for subscriptions made with
        `manual_ack=True`: for all others the link does it once the handler has returned. When the connection that
        brought the message is gone this does nothing, since the broker will deliver it again anyway.
        """
        answer, self.on_acknowledge = self.on_acknowledge, _nothing
        answer()


Handler = Callable[[Delivery], object]
