"""Between the link and the coordinator's parts: takes messages apart on the way in, addresses them on the way out.

On the way in every message is checked in the same order: the topic is ours; its device does not flood us (`floods.py`);
the device is enrolled, at that site and
not revoked; the envelope parses; its kind is allowed on that topic; its body parses. The first that fails is logged and
answered with a named `Refused`, and nothing else happens. The certificate's name is checked by the broker's ACL and,
through the topic, once more here.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

from argosy_common.clock import Clock
from argosy_common.errors import ArgosyError, DeviceNotFound, EnvelopeMalformed, KindUnknown
from argosy_common.link import Delivery, Link
from argosy_common.logs import get_logger
from argosy_common.wire import topics
from argosy_common.wire.bodies import (
    KINDS,
    TRANSFER_KINDS,
    Accepted,
    Birth,
    Body,
    Cancel,
    Death,
    ErrorPart,
    Heartbeat,
    Instruction,
    Inventory,
    ModelState,
    Progress,
    Received,
    Refused,
    Reply,
    UpgradeState,
    open_body,
)
from argosy_common.wire.envelope import Envelope, decode, encode
from argosy_server.floods import Floods
from argosy_server.store import DeviceState, Store

log = get_logger(__name__)

UPWARD: dict[str, tuple[type[Body], ...]] = {
    "s": (Birth, Death),
    "hb": (Heartbeat,),
    "evt": (Inventory, Accepted, Progress, Reply, ModelState, UpgradeState, Refused),
    "rpc": TRANSFER_KINDS,
}
"""Which kinds a device may publish on which of its topics."""

UNACKNOWLEDGED: tuple[type[Body], ...] = (*TRANSFER_KINDS, Received)
"""Kinds that are said again when they are lost, by our own timers and acknowledgements, and so go with QoS 0."""

_CHUNK_LIFE_S = 120
"""Seconds after which the broker may drop a chunk (specs/transport.md, "Blobs")."""

_KNOWN_FOR_S = 5.0
"""A device's enrolment is read from the database at most this often; a revocation does not wait for it (`forget`)."""

B = TypeVar("B", bound=Body)
Handler = Callable[[str, Envelope, Body], None]
ChunkHandler = Callable[[str, bytes], object]
"""Returns whether anybody waited for the chunk."""


@dataclass(frozen=True)
class _Known:
    site: str
    refused: str
    read_at: float


class Gateway:
    """Routes messages of all devices. Handlers run on the link's thread and must be quick."""

    def __init__(self, link: Link, store: Store, *, clock: Clock, sink: str, floods: Floods | None = None) -> None:
        self._link = link
        self._store = store
        self._clock = clock
        self._handlers: dict[type[Body], Handler] = {}
        self._on_chunk: ChunkHandler = lambda _device, _frame: True
        self._floods = floods or Floods(clock)
        self._known: dict[str, _Known] = {}
        self._lock = threading.Lock()
        for each in topics.COORDINATOR_FILTERS:
            link.subscribe(each, self._receive, qos=1, manual_ack=True)
        link.subscribe(topics.chunk_filter(sink), self._receive_chunk, qos=0)

    def handle(self, kind: type[B], handler: Callable[[str, Envelope, B], None]) -> None:
        """Send bodies of one kind to `handler(device, envelope, body)`."""
        self._handlers[kind] = cast("Handler", handler)

    def handle_chunks(self, handler: ChunkHandler) -> None:
        """Send chunk frames to `handler(device, frame)`."""
        self._on_chunk = handler

    # --- outward

    def post(
        self,
        device: str,
        body: Body,
        *,
        run: int | None = None,
        reply_to: str | None = None,
    ) -> bool:
        """Send a body to a device; False if the link is down, and nothing is queued then."""
        names = self._topics(device)
        if names is None:
            return False
        envelope = Envelope(kind=body.kind, body=body.pack(), run=run, reply_to=reply_to)
        to_jobs = isinstance(body, Instruction | Cancel)
        quality = 0 if isinstance(body, UNACKNOWLEDGED) else 1
        return self._link.publish(names.jobs if to_jobs else names.control_down, encode(envelope), qos=quality)

    def post_job(self, device: str, envelope: bytes, *, expires_s: float) -> bool:
        """Send an encoded instruction; False if the link is down."""
        names = self._topics(device)
        return names is not None and self._link.publish(names.jobs, envelope, qos=1, expires_s=math.ceil(expires_s))

    def post_chunk(self, device: str, _sink: str, frame: bytes) -> bool:
        """Send a chunk frame; False if the link is down."""
        names = self._topics(device)
        return names is not None and self._link.publish(names.chunks_down, frame, qos=0, expires_s=_CHUNK_LIFE_S)

    def welcomes(self, device: str) -> bool:
        """Tell whether this device is enrolled and not shut out; as fresh as for its messages."""
        return not self._lookup(device).refused

    def site(self, device: str) -> str:
        """Return the site that this device enrolled at; empty for one that is shut out."""
        names = self._topics(device)
        return "" if names is None else names.site

    def forget(self, device: str) -> None:
        """Read the enrolment of this device from the database before anything else is taken from it or sent to it."""
        with self._lock:
            self._known.pop(device, None)

    # --- inward

    def _receive(self, delivery: Delivery) -> None:
        try:
            self._route(delivery)
        finally:
            delivery.acknowledge()

    def _route(self, delivery: Delivery) -> None:
        address = topics.parse(delivery.topic)
        if address is None:
            log.warning("gateway.foreign_topic", topic=delivery.topic[:200])
            return
        if self._floods.quiet(address.device):
            return
        self._floods.take(address.device)
        if address.leaf == "s" and not delivery.payload:
            return  # a retained birth that somebody cleared
        envelope: Envelope | None = None
        try:
            self._check_device(address)
            envelope = decode(delivery.payload, peer=address.device)
            body = self._open(address, envelope)
        except ArgosyError as error:
            self._floods.take(address.device, refused=True)
            self._refuse(address.device, envelope, error)
            return
        handler = self._handlers.get(type(body))
        if handler is None:
            log.warning("gateway.unhandled", device=address.device, kind=body.kind)
            return
        handler(address.device, envelope, body)

    def _open(self, address: topics.Address, envelope: Envelope) -> Body:
        allowed = {kind.kind for kind in UPWARD[address.leaf]}
        if envelope.kind in KINDS and envelope.kind not in allowed:
            raise EnvelopeMalformed(peer=address.device, why=f"'{envelope.kind}' is not sent on .../{address.leaf}")
        if envelope.kind not in KINDS:
            raise KindUnknown(peer=address.device, kind=envelope.kind)
        return open_body(envelope, peer=address.device)

    def _receive_chunk(self, delivery: Delivery) -> None:
        address = topics.parse(delivery.topic)
        if address is None:
            log.warning("gateway.foreign_topic", topic=delivery.topic[:200])
            return
        if self._floods.quiet(address.device):
            return
        try:
            self._check_device(address)
        except ArgosyError as error:
            self._floods.take(address.device, refused=True)
            log.warning("gateway.refused", device=address.device, code=error.code, why=error.message)
            return
        if not self._on_chunk(address.device, delivery.payload):
            self._floods.take(address.device, refused=True)

    def _refuse(self, device: str, envelope: Envelope | None, error: ArgosyError) -> None:
        log.warning("gateway.refused", device=device, code=error.code, why=error.message)
        if isinstance(error, DeviceNotFound) or (envelope is not None and envelope.kind == Refused.kind):
            return  # nobody to tell; or a refusal, which is never answered
        part = ErrorPart.model_validate(error.to_wire())
        self.post(device, Refused(error=part), reply_to=envelope.id if envelope else None)

    def _check_device(self, address: topics.Address) -> None:
        known = self._lookup(address.device)
        if known.refused:
            raise DeviceNotFound(device=address.device)
        if known.site != address.site:
            raise EnvelopeMalformed(peer=address.device, why=f"it belongs to another site than {address.site}")

    def _topics(self, device: str) -> topics.DeviceTopics | None:
        """Return where to reach a device, which never changes; None for one that is shut out, or if we do not know.

        Whoever posts holds locks and has more to do, so what the database does must not raise here.
        """
        with self._lock:
            known = self._known.get(device)
        try:
            known = known or self._lookup(device)
        except ArgosyError as error:
            log.error("gateway.unreachable", device=device, code=error.code, why=error.message)
            return None
        return None if known.refused else topics.DeviceTopics(known.site or "default", device)

    def _lookup(self, device: str) -> _Known:
        now = self._clock.monotonic()
        with self._lock:
            known = self._known.get(device)
        if known is not None and now - known.read_at < _KNOWN_FOR_S:
            return known
        try:
            row = self._store.devices.get(device)
            # `get` also finds by name or prefix; a topic must carry the full id
            welcome = row.device == device and row.state is DeviceState.ENROLLED
            known = _Known(row.site, "" if welcome else "not enrolled", now)
        except DeviceNotFound:
            known = _Known("", "unknown", now)
        with self._lock:
            if len(self._known) > 100_000:
                self._known.clear()  # somebody invents names; the database answers again
            self._known[device] = known
        return known
