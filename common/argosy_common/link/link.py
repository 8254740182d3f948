"""One MQTT 5 connection that comes back by itself (specs/transport.md, "Link").

Rules:
- The broker may lose everything at any moment: each connection subscribes afresh, and what was published while there
  was none was never taken (`publish` said so).
- Handlers and callbacks run on the link's thread, one at a time. They must be quick; they may publish.
- Two threads: the *loop*, which connects, serves and waits; and the *keeper*, which only watches the loop and starts
  it again should it ever die.
"""

from __future__ import annotations

import math
import random
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

import paho.mqtt.client as mqtt

from argosy_common.backoff import Backoff
from argosy_common.clock import Clock
from argosy_common.errors import ArgosyError, BrokerUnreachable
from argosy_common.link.connection import Connection
from argosy_common.link.delivery import Delivery, Handler
from argosy_common.link.routes import Routes, Subscription
from argosy_common.link.settings import LinkSettings, TlsFiles, Will
from argosy_common.link.stats import LinkStats
from argosy_common.logs import get_logger

T = TypeVar("T")

log = get_logger(__name__)

_SETTLED_S = 10.0
"""A connection that lasted this long was a good one, however it ended."""
_LATELY_S, _SOON_S = 30.0, 2.0
"""For so long after a good connection, pauses are no longer than that."""
_LEAVE_S = 2.0
"""How long what waits to be sent may hold up a connection that is to be made anew."""
_STUCK_AFTER = 3
"""Watchdog periods without a turn of the loop until the keeper says so."""


class Link:
    """A connection to the broker, kept up for as long as it is started."""

    def __init__(
        self,
        settings: LinkSettings,
        *,
        clock: Clock,
        rng: random.Random,
        will: Callable[[], Will] | None = None,
        tls: Callable[[], TlsFiles] | None = None,
    ) -> None:
        """Prepare the link; `will` is asked anew at each connection, and so is `tls`, which replaces the settings'."""
        self._settings = settings
        self._addresses = deque([(settings.host, settings.port), *settings.elsewhere])
        self._tried = 0
        self._told: dict[str, str] = {}
        """What was last logged of each address: a broker that is gone for days is not told of every minute."""
        self._clock = clock
        self._will = will
        self._tls = tls
        self._worked_at = -math.inf
        """When the last good connection ended."""
        self._backoff = Backoff(rng, base=settings.backoff_base_s, cap=settings.backoff_cap_s)
        self._routes = Routes()
        self._up_callbacks: list[Callable[[bool], None]] = []
        self._down_callbacks: list[Callable[[str], None]] = []
        self._connection: Connection | None = None
        self._up = threading.Event()
        self._stopping = threading.Event()
        self._anew = threading.Event()
        """Somebody wants another connection: this one is to end, and no pause to be made."""
        self._leave_by = 0.0
        self._last_error: ArgosyError | None = None
        self._keeper: threading.Thread | None = None
        self._loop: threading.Thread | None = None
        self._counting = threading.Lock()
        self._bytes_in = self._bytes_out = self._packets_in = self._packets_out = self._connects = 0

    # --- what the layers above use ---------------------------------------------------------------------------------

    def subscribe(self, topic_filter: str, handler: Handler, *, qos: int = 1, manual_ack: bool = False) -> None:
        """Have `handler` called, on the link's thread, with each message that matches; before or after `start`.

        With `manual_ack` the broker keeps a QoS-1 message until `Delivery.acknowledge`, and delivers it again after a
        reconnect otherwise. A handler that raises is logged and its message acknowledged, so that it cannot come back
        for ever.
        """
        subscription = Subscription(topic_filter, handler, qos, manual_ack)
        self._routes.add(subscription)
        connection = self._connection
        if connection is not None:
            connection.subscribe([subscription])

    def on_up(self, callback: Callable[[bool], None]) -> None:
        """Call `callback(session_present)` after each connection, once the subscriptions are acknowledged."""
        self._up_callbacks.append(callback)

    def on_down(self, callback: Callable[[str], None]) -> None:
        """Call `callback(why)` each time an established connection ends."""
        self._down_callbacks.append(callback)

    def start(self) -> None:
        """Begin to connect; returns at once. A link is started once."""
        if self._keeper is not None:
            raise RuntimeError("a link is started once")
        self._keeper = threading.Thread(target=self._keep, name="link-keeper", daemon=True)
        self._keeper.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Send what waits, say goodbye (the broker then drops the will) and end the threads.

        Returns after about `timeout_s` at the latest, even if a handler hangs; harmless when called twice.
        """
        deadline = self._clock.monotonic() + timeout_s
        self._leave_by = deadline
        self._stopping.set()
        self._anew.set()
        connection = self._connection
        if connection is not None:
            connection.leave(deadline)
        keeper = self._keeper
        if keeper is not None and threading.current_thread() not in (keeper, self._loop):
            keeper.join(max(0.1, deadline - self._clock.monotonic()) + 1.5)

    def reconnect(self) -> None:
        """Say goodbye and connect anew at once, or end the pause before the next attempt; returns at once.

        The session stays, and so does what the broker holds for it; the will is not published.
        """
        self._anew.set()
        connection = self._connection
        if connection is not None:
            connection.leave(self._clock.monotonic() + _LEAVE_S)

    @property
    def connected(self) -> bool:
        """Whether messages can be published now."""
        return self._up.is_set()

    def wait_connected(self, timeout_s: float) -> bool:
        """Wait until `connected`, at most `timeout_s`; return whether it is."""
        return self._up.wait(timeout_s)

    def trouble(self, patience_s: float) -> str:
        """Say what hangs in here, if anything has for longer than `patience_s` seconds; else nothing.

        No connection, and the attempts to make one, are no trouble of this kind: a new start would not help.
        """
        keeper, connection = self._keeper, self._connection
        if keeper is None or not keeper.is_alive():
            return "the link's keeper has ended"
        silent = self._clock.monotonic() - connection.ticked_at if connection is not None and self.connected else 0.0
        return f"the link has been hanging for {silent:.0f} s" if silent > patience_s else ""

    @property
    def address(self) -> str:
        """`host:port` of the connection, or of the one that is being tried."""
        return self._settings.address

    @property
    def last_error(self) -> ArgosyError | None:
        """Why there is no connection; None while there is one and before the first attempt has failed."""
        return self._last_error

    def publish(
        self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, expires_s: int | None = None
    ) -> bool:
        """Hand one message to the connection; any thread, handlers included.

        Returns:
            False, with nothing kept, when there is no connection, when the message is larger than the broker takes,
            or when too much is waiting to be sent already. True promises nothing about delivery: the connection may
            be lost the next moment, and the broker may drop what it has acknowledged. The layers above have their own
            acknowledgements and send again.

        Raises:
            ValueError: `topic` holds a wildcard, or `qos` is none of 0, 1, 2.
        """
        connection = self._connection
        size = connection.publish(topic, payload, qos, retain, expires_s) if connection is not None else 0
        if not size:
            return False
        with self._counting:
            self._bytes_out += size
            self._packets_out += 1
        return True

    def stats(self) -> LinkStats:
        """Return what was carried so far."""
        with self._counting:
            return LinkStats(self._bytes_in, self._bytes_out, self._packets_in, self._packets_out, self._connects)

    # --- the keeper ------------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        while not self._stopping.is_set():
            self._loop = threading.Thread(target=self._connect_and_serve, name="link-loop", daemon=True)
            self._loop.start()
            self._watch(self._loop)
            if not self._stopping.is_set():
                why = "the link's loop died"
                log.error("link.loop.died", broker=self._settings.address)
                self._last_error = BrokerUnreachable(address=self._settings.address, why=why)
                self._went_down(why)
                self._stopping.wait(self._backoff.next())

    def _watch(self, loop: threading.Thread) -> None:
        """Return when the loop has ended; say so, once, when it hangs."""
        told = False
        while loop.is_alive():
            if self._stopping.is_set():
                loop.join(max(0.0, self._leave_by - self._clock.monotonic()) + 1.0)
                return
            loop.join(self._settings.watchdog_s)
            connection = self._connection
            silent = self._clock.monotonic() - connection.ticked_at if connection is not None else 0.0
            stuck = loop.is_alive() and silent > _STUCK_AFTER * self._settings.watchdog_s
            if stuck and not told:
                log.error("link.loop.stuck", seconds=silent, remedy="a handler does not return")
            told = stuck

    # --- the loop --------------------------------------------------------------------------------------------------

    def _connect_and_serve(self) -> None:
        while not self._stopping.is_set():
            self._anew.clear()
            connects = self._connects
            why = self._one_connection()
            if self._stopping.is_set():
                return
            if self._anew.is_set() or (self._connects == connects and self._turn_to_next_address()):
                continue
            # a broker that was well a moment ago is being started again, most likely
            lately = self._clock.monotonic() - self._worked_at < _LATELY_S
            wait = self._backoff.next(at_most=_SOON_S if lately else math.inf)
            log.debug("link.waits", seconds=wait, why=why)
            self._anew.wait(wait)

    def _turn_to_next_address(self) -> bool:
        """Try the broker elsewhere next time; False when all its addresses were tried since the last pause."""
        self._addresses.rotate(-1)
        host, port = self._addresses[0]
        self._settings = replace(self._settings, host=host, port=port)
        self._tried = (self._tried + 1) % len(self._addresses)
        return self._tried != 0

    def _one_connection(self) -> str:
        """Connect and serve until it ends; return why it ended."""
        began, connects, packets = self._clock.monotonic(), self._connects, self._packets_in
        dismissed = False
        try:
            settings = self._settings if self._tls is None else replace(self._settings, tls=self._tls())
            connection = Connection(settings, self._clock, self, self._ask_will())
            self._connection = connection
            if self._stopping.is_set() or self._anew.is_set():  # it may have come before there was something to leave
                connection.leave(self._leave_by)
            why = connection.run()
            dismissed = connection.dismissed
            error: ArgosyError = BrokerUnreachable(address=self._settings.address, why=why)
        except ArgosyError as failed:
            error, why = failed, failed.facts.get("why", failed.message)
        was_up = self._connects > connects
        self._connection = None
        if self._anew.is_set():
            why = "stopped" if self._stopping.is_set() else "it is to be made anew"
            log.info("link.ended", broker=self.address, why=why)
        elif was_up or self._told.get(self.address) != why:
            log.warning("link.lost" if was_up else "link.unreachable", broker=self.address, why=why)
        self._told[self.address] = why
        self._last_error = error
        self._went_down(why)
        # A line that is cut again and again but works in between is taken up at once each time. A broker that sends us
        # away (another client has our name, it is overloaded, our messages offend it) meets growing pauses.
        worked = self._packets_in > packets and not dismissed
        if was_up and (worked or self._clock.monotonic() - began >= _SETTLED_S):
            self._backoff.reset()
            self._worked_at = self._clock.monotonic()
        return why

    def _ask_will(self) -> Will | None:
        try:
            return self._will() if self._will is not None else None
        except Exception as error:  # noqa: BLE001  (a bad will must not keep a device from connecting)
            log.error("link.will.failed", exc=error)
            return None

    def _went_down(self, why: str) -> None:
        if self._up.is_set():
            self._up.clear()
            for callback in tuple(self._down_callbacks):
                _guarded("link.on_down.failed", callback, why)

    # --- what the connection tells (see connection.Owner) ----------------------------------------------------------

    def subscriptions(self) -> Iterable[Subscription]:
        """See `connection.Owner`."""
        return self._routes.all()

    def came_up(self, session_present: bool) -> None:
        """See `connection.Owner`."""
        with self._counting:
            self._connects += 1
        self._last_error = None
        self._told.clear()
        self._up.set()
        log.info("link.connected", broker=self._settings.address, session_present=session_present)
        for callback in tuple(self._up_callbacks):
            _guarded("link.on_up.failed", callback, session_present)

    def arrived(self, message: mqtt.MQTTMessage, size: int, acknowledge: Callable[[], None]) -> None:
        """See `connection.Owner`."""
        with self._counting:
            self._bytes_in += size
            self._packets_in += 1
        delivery = Delivery(message.topic, bytes(message.payload), message.retain, acknowledge)
        matching = self._routes.match(delivery.topic)
        if not matching:  # a subscription that an earlier version made, still in the broker's session
            log.debug("link.unrouted", topic=delivery.topic)
        keep = False
        for subscription in matching:
            keep |= _guarded("link.handler.failed", subscription.handler, delivery) and subscription.manual_ack
        if not keep:
            delivery.acknowledge()


def _guarded(event: str, callback: Callable[[T], object], argument: T) -> bool:
    """Call `callback`; log what it raises, since nothing the layers above do may end the loop."""
    try:
        callback(argument)
    except Exception as error:  # noqa: BLE001  (see above)
        log.error(event, exc=error)
        return False
    return True
