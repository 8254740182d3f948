"""Proof that the link's loop lives: a question that only a working loop and a working broker answer. Pure.

The question is a SUBSCRIBE of what we have subscribed already (connection.py): it is allowed, since it was before, it
reaches nobody, and it takes the same way through the loop and the broker as a message. A QoS-1 message would need a
topic of its own in every access list; an UNSUBSCRIBE of nothing is never answered by rumqttd.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Watchdog:
    """Asks every `period` seconds and gives up when nothing at all was heard for `patience` seconds after asking."""

    period: float
    patience: float
    heard: float = 0.0
    asked: float | None = None

    def due(self, now: float) -> bool:
        """Whether it is time to ask."""
        return self.asked is None and now - self.heard >= self.period

    def ask(self, now: float) -> None:
        """Note that the question was sent."""
        self.asked = now

    def hear(self, now: float) -> None:
        """Note that the socket moved bytes, which is life but no proof: a slow line is not a dead one."""
        self.heard = now

    def answer(self, now: float) -> None:
        """Note the answer."""
        self.heard = now
        self.asked = None

    def expired(self, now: float) -> bool:
        """Whether the connection is to be given up."""
        return self.asked is not None and now - max(self.asked, self.heard) >= self.patience
