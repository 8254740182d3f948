"""One MQTT 5 connection that comes back by itself (specs/transport.md, "Link")."""

from __future__ import annotations

import random
from collections.abc import Callable

from argosy_common.clock import Clock
from argosy_common.errors import ArgosyError
from argosy_common.link.delivery import Handler
from argosy_common.link.settings import LinkSettings, Will
from argosy_common.link.stats import LinkStats


class Link:
    """A connection to the broker, kept up for as long as it is started."""

    def __init__(
        self,
        settings: LinkSettings,
        *,
        clock: Clock,
        rng: random.Random,
        will: Callable[[], Will] | None = None,
    ) -> None:
        raise NotImplementedError

    def subscribe(self, topic_filter: str, handler: Handler, *, qos: int = 1, manual_ack: bool = False) -> None:
        """Have `handler` called, on the link's thread, with each message that matches; before or after `start`."""
        raise NotImplementedError

    def on_up(self, callback: Callable[[bool], None]) -> None:
        """Call `callback(session_present)` after each connection, once the subscriptions are acknowledged."""
        raise NotImplementedError

    def on_down(self, callback: Callable[[str], None]) -> None:
        """Call `callback(why)` each time an established connection ends."""
        raise NotImplementedError

    def start(self) -> None:
        """Begin to connect; returns at once."""
        raise NotImplementedError

    def stop(self, timeout_s: float = 5.0) -> None:
        """Send what waits, say goodbye (the broker drops the will) and end the threads, within `timeout_s` or so."""
        raise NotImplementedError

    @property
    def connected(self) -> bool:
        """Whether messages can be published now."""
        raise NotImplementedError

    def wait_connected(self, timeout_s: float) -> bool:
        """Wait until `connected`, at most `timeout_s`; return whether it is."""
        raise NotImplementedError

    @property
    def last_error(self) -> ArgosyError | None:
        """Why there is no connection; None while there is one or before the first attempt failed."""
        raise NotImplementedError

    def publish(
        self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, expires_s: int | None = None
    ) -> bool:
        """Hand one message to the connection; False, with nothing kept, when it cannot take it now or ever."""
        raise NotImplementedError

    def stats(self) -> LinkStats:
        """Return what was carried so far."""
        raise NotImplementedError
