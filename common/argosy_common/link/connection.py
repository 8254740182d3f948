"""One connection from CONNECT to its end: a paho client, the loop that serves it, and nothing that outlives it.

Rules:
- A new paho client for each connection. So no message, no packet id and no half-read packet of an old connection can
  reach a new one, and certificate files are read afresh.
- One thread reads and writes the socket: the one in `run`. All others only queue a packet and wake it, which is what
  the no-op `on_socket_register_write` asks of paho. OpenSSL connections are not for two threads.
- `client.loop()` is not used: it selects, so a descriptor above 1023 would end it.
- Every callback of paho's is guarded here; what the layers above do wrong never ends a connection.
"""

from __future__ import annotations

import functools
import selectors
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Protocol

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from argosy_common.clock import Clock
from argosy_common.errors import BrokerUnreachable
from argosy_common.link.packets import properties, publish_size
from argosy_common.link.routes import Subscription
from argosy_common.link.settings import LinkSettings, Will
from argosy_common.link.tls import TellingSocket, client_context
from argosy_common.link.waker import Waker
from argosy_common.link.watchdog import Watchdog
from argosy_common.logs import get_logger

log = get_logger(__name__)

_TICK_S = 0.5
"""How often keep-alive, watchdog and deadlines are looked at."""
_PACKETS_A_TURN = 64
"""Packets read before writing gets its turn."""
_GOODBYE_S = 1.0
_INFLIGHT = 16
"""QoS-1 messages under way to the broker; below every broker's Receive Maximum we know of (Mosquitto: 20)."""


class Phase(Enum):
    """Where a connection stands."""

    CONNECTING = "connecting"
    SUBSCRIBING = "subscribing"
    UP = "up"
    LEAVING = "leaving"
    CLOSED = "closed"


TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.CONNECTING: frozenset({Phase.SUBSCRIBING, Phase.LEAVING, Phase.CLOSED}),
    Phase.SUBSCRIBING: frozenset({Phase.UP, Phase.LEAVING, Phase.CLOSED}),
    Phase.UP: frozenset({Phase.LEAVING, Phase.CLOSED}),
    Phase.LEAVING: frozenset({Phase.CLOSED}),
    Phase.CLOSED: frozenset(),
}


class Owner(Protocol):
    """What a connection needs from its link. All are called on the thread in `run`, and none may raise."""

    def subscriptions(self) -> Iterable[Subscription]:
        """Return what to subscribe."""
        ...

    def came_up(self, session_present: bool) -> None:
        """Learn that the subscriptions are acknowledged."""
        ...

    def arrived(self, message: mqtt.MQTTMessage, size: int, acknowledge: Callable[[], None]) -> None:
        """Take one message of `size` bytes."""
        ...


class Connection:
    """See the module's rules. `run` returns why it ended."""

    def __init__(self, settings: LinkSettings, clock: Clock, owner: Owner, will: Will | None) -> None:
        self._settings = settings
        self._clock = clock
        self._owner = owner
        self._waker = Waker()
        self._phase = Phase.CONNECTING
        self._moving = threading.Lock()
        self._why: str | None = None
        self._sock: object = None
        self._session_present = False
        self._first_subscribe: int | None = None
        self._asked: dict[int, list[str]] = {}
        self._max_packet = settings.max_packet
        self._unsent: deque[tuple[mqtt.MQTTMessageInfo, int]] = deque()
        self._queued = 0
        self._done = 0
        self._counting = threading.Lock()
        self._leave_by = 0.0
        self._goodbye_at: float | None = None
        self._watchdog = Watchdog(settings.watchdog_s, settings.keepalive_s)
        self.ticked_at = clock.monotonic()
        """When the loop last came round; the link's keeper looks at it."""
        self.dismissed = False
        """Whether the broker ended the connection with a DISCONNECT: it was reachable, and wants us less often."""
        self._client = self._make_client(will)

    # --- from any thread -------------------------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """Where the connection stands."""
        return self._phase

    @property
    def backlog(self) -> int:
        """Bytes of messages that are not sent yet (QoS 0) or not acknowledged yet (QoS 1)."""
        return self._queued - self._done

    def publish(self, topic: str, payload: bytes, qos: int, retain: bool, expires_s: int | None) -> int:
        """Queue one message; return its size as a packet, or 0 if it was not taken."""
        size = publish_size(topic, len(payload), qos=qos, expires=expires_s is not None)
        if self._phase is not Phase.UP or size > self._max_packet or self.backlog + size > self._settings.max_backlog:
            return 0
        extra = None if expires_s is None else properties(PacketTypes.PUBLISH, MessageExpiryInterval=expires_s)
        info = self._client.publish(topic, payload, qos, retain, extra)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            return 0
        with self._counting:
            self._queued += size
        self._unsent.append((info, size))
        self._waker.wake()
        return size

    def subscribe(self, subscriptions: Iterable[Subscription]) -> None:
        """Ask for more subscriptions; a refusal is logged."""
        if self._phase in (Phase.SUBSCRIBING, Phase.UP):
            self._ask_subscribe(list(subscriptions))
            self._waker.wake()

    def leave(self, by: float) -> None:
        """Send what waits, but no longer than until `by` (monotonic), then say goodbye."""
        self._leave_by = by
        self._move(Phase.LEAVING)
        self._waker.wake()

    # --- the thread that serves ------------------------------------------------------------------------------------

    def run(self) -> str:
        """Connect and serve; return why the connection ended.

        Raises:
            BrokerUnreachable: it never came to a connection.
            CertificateInvalid: our own files cannot be used.
        """
        try:
            self._connect()
            with selectors.DefaultSelector() as selector:
                self._serve(selector)
        finally:
            self._move(Phase.CLOSED)
            sock = self._client.socket()
            if sock is not None:
                sock.close()
            self._waker.close()
        return self._why or "closed"

    def _connect(self) -> None:
        settings = self._settings
        if settings.tls is not None:
            self._client.tls_set_context(client_context(settings.tls))
        wishes = properties(
            PacketTypes.CONNECT,
            SessionExpiryInterval=settings.session_expiry_s,
            ReceiveMaximum=settings.receive_maximum,
            MaximumPacketSize=settings.max_packet,
        )
        try:
            self._client.connect(
                settings.host, settings.port, settings.keepalive_s, clean_start=False, properties=wishes
            )
        except (OSError, ValueError) as error:  # ValueError: a host name that cannot be one
            raise BrokerUnreachable(address=settings.address, why=_plain(error)) from error

    def _serve(self, selector: selectors.BaseSelector) -> None:
        sock = self._client.socket()
        if sock is None:
            self._lose("the connection closed at once")
            return
        selector.register(self._waker, selectors.EVENT_READ)
        key = selector.register(sock, selectors.EVENT_READ)
        started = now = self._clock.monotonic()
        self._watchdog.hear(now)
        pending = sock.pending if isinstance(sock, ssl.SSLSocket) else lambda: 0
        blocked = False
        while self._why is None:
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if blocked else 0)
            if key.events != wanted:
                key = selector.modify(sock, wanted)
            happened = 0
            for ready, events in selector.select(0 if pending() else _TICK_S):
                if ready.fileobj is self._waker:
                    self._waker.clear()
                else:
                    happened = events
            now = self._clock.monotonic()
            if happened:
                self._watchdog.hear(now)
            if (happened & selectors.EVENT_READ or pending()) and not self._read(pending):
                break
            if (not blocked or happened & selectors.EVENT_WRITE) and not self._write():
                break
            blocked = self._client.want_write()
            self._forget_sent()
            if now - self.ticked_at >= _TICK_S or self._phase is Phase.LEAVING:
                self._tick(now, started)

    def _read(self, pending: Callable[[], int]) -> bool:
        for _ in range(_PACKETS_A_TURN):
            if not self._survived(self._client.loop_read):
                return False
            if not pending():
                break
        return True

    def _write(self) -> bool:
        return not self._client.want_write() or self._survived(self._client.loop_write)

    def _survived(self, step: Callable[[], MQTTErrorCode]) -> bool:
        try:
            rc = step()
        except Exception as error:  # noqa: BLE001  (paho raises many kinds at bytes that are no MQTT)
            log.warning("link.protocol", exc=error, broker=self._settings.address)
            self._lose(f"the broker sent something that is not MQTT 5 ({error})")
            return False
        if rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._lose(self._fault() or mqtt.error_string(rc).rstrip("."))
        return self._why is None

    def _tick(self, now: float, started: float) -> None:
        self.ticked_at = now
        if not self._survived(self._client.loop_misc):
            return
        if self._phase in (Phase.CONNECTING, Phase.SUBSCRIBING) and now - started > self._settings.connect_timeout_s:
            self._lose(f"no answer within {self._settings.connect_timeout_s:g} s")
        elif self._phase is Phase.UP:
            self._watch(now)
        elif self._phase is Phase.LEAVING:
            self._say_goodbye(now)

    def _watch(self, now: float) -> None:
        if self._watchdog.expired(now):
            self._lose(f"the broker stopped answering {self._settings.keepalive_s} s ago")
        elif self._watchdog.due(now):
            subscriptions = list(self._owner.subscriptions())[:1]
            if subscriptions:  # without any, only MQTT's own keep-alive watches
                self._ask_subscribe(subscriptions, again=True)
                self._watchdog.ask(now)

    def _say_goodbye(self, now: float) -> None:
        if self._goodbye_at is None and (not self._unsent or now >= self._leave_by):
            self._goodbye_at = now
            self._client.disconnect()
            self._survived(self._client.loop_write)  # paho closes the socket once it is written
        elif self._goodbye_at is not None and now - self._goodbye_at > _GOODBYE_S:
            self._lose("stopped")

    def _forget_sent(self) -> None:
        unsent = self._unsent
        while unsent and unsent[0][0].is_published():
            self._done += unsent.popleft()[1]

    def _lose(self, why: str) -> None:
        if self._why is None:
            self._why = why

    def _fault(self) -> str:
        """Return OpenSSL's or the system's words on what ended the connection; empty if it was an orderly end."""
        fault = self._sock.fault if isinstance(self._sock, TellingSocket) else None
        return _plain(fault) if fault is not None else ""

    def _move(self, phase: Phase) -> bool:
        with self._moving:
            if phase not in TRANSITIONS[self._phase]:
                return False
            self._phase = phase
            return True

    # --- paho's callbacks ------------------------------------------------------------------------------------------

    def _make_client(self, will: Will | None) -> mqtt.Client:
        settings = self._settings
        client = mqtt.Client(CallbackAPIVersion.VERSION2, settings.client_id, protocol=mqtt.MQTTv5, manual_ack=True)
        client.connect_timeout = settings.connect_timeout_s
        client.max_inflight_messages_set(_INFLIGHT)
        if will is not None:
            delay = properties(PacketTypes.WILLMESSAGE, WillDelayInterval=will.delay_s)
            client.will_set(will.topic, will.payload, will.qos, will.retain, delay)
        client.on_socket_open = self._on_socket_open
        client.on_socket_register_write = _only_queue
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect
        return client

    def _on_socket_open(self, _client: mqtt.Client, _data: object, sock: object) -> None:
        self._sock = sock
        if isinstance(sock, socket.socket):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # 256 kB × 4: 21 MB/s without, 129 with

    def _on_connect(
        self, _client: mqtt.Client, _data: object, flags: mqtt.ConnectFlags, reason: ReasonCode, server: object
    ) -> None:
        if reason.is_failure:
            self._lose(f"it refused the connection: {reason}")
            return
        self._session_present = flags.session_present
        self._max_packet = min(self._max_packet, getattr(server, "MaximumPacketSize", self._max_packet))
        self._move(Phase.SUBSCRIBING)
        subscriptions = list(self._owner.subscriptions())
        if subscriptions:
            self._first_subscribe = self._ask_subscribe(subscriptions)
        else:
            self._up()

    def _ask_subscribe(self, subscriptions: list[Subscription], *, again: bool = False) -> int | None:
        retained = SubscribeOptions.RETAIN_DO_NOT_SEND if again else SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE
        wanted = [(one.topic_filter, SubscribeOptions(one.qos, retainHandling=retained)) for one in subscriptions]
        rc, mid = self._client.subscribe(wanted)
        if mid is not None:
            self._asked[mid] = [one.topic_filter for one in subscriptions]
        elif rc != MQTTErrorCode.MQTT_ERR_NO_CONN:
            log.error("link.subscribe.failed", why=mqtt.error_string(rc))
        return mid

    def _on_subscribe(
        self, _client: mqtt.Client, _data: object, mid: int, reasons: list[ReasonCode], _p: object
    ) -> None:
        self._watchdog.answer(self._clock.monotonic())
        for topic_filter, reason in zip(self._asked.pop(mid, []), reasons, strict=False):
            if reason.is_failure:
                log.error("link.subscribe.refused", topic=topic_filter, why=str(reason))
        if mid == self._first_subscribe and self._phase is Phase.SUBSCRIBING:
            self._up()

    def _up(self) -> None:
        if self._move(Phase.UP):
            self._owner.came_up(self._session_present)

    def _on_message(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        acknowledge = functools.partial(self._acknowledge, message.mid, message.qos)
        try:
            size = publish_size(message.topic, len(message.payload), qos=message.qos)
        except UnicodeDecodeError:
            log.warning("link.topic.malformed")
            acknowledge()
            return
        self._owner.arrived(message, size, acknowledge)

    def _acknowledge(self, mid: int, qos: int) -> None:
        if qos and self._phase is not Phase.CLOSED:
            self._client.ack(mid, qos)
            self._waker.wake()

    def _on_disconnect(
        self, _client: mqtt.Client, _data: object, flags: mqtt.DisconnectFlags, reason: ReasonCode, _p: object
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self.dismissed = True
            self._lose(f"it ended the connection: {reason}")
        elif self._phase is Phase.LEAVING:
            self._lose("stopped")
        else:
            self._lose(self._fault() or "the connection was lost")


def _only_queue(_client: mqtt.Client, _data: object, _sock: object) -> None:
    """Do nothing, so that `publish` only queues: whoever queues wakes the loop, which asks `want_write` itself."""


def _plain(error: BaseException) -> str:
    """Return an error's text without OpenSSL's file names and Python's class names."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not to be trusted ({error.verify_message})"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__
