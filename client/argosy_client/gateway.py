"""Between the link and the daemon's parts: takes messages apart on the way in, addresses them on the way out.

On the way in every message is checked in the same order: the envelope parses; its kind is known, and allowed on that
topic; its body parses. The first check that fails is logged and answered with a named `Refused`, and nothing else
happens. A handler has done its durable work when it returns: then the delivery is acknowledged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from argosy_common.errors import ArgosyError, EnvelopeMalformed, KindUnknown, ProgrammingError
from argosy_common.link import Delivery, Link
from argosy_common.logs import get_logger
from argosy_common.wire.bodies import (
    KINDS,
    TRANSFER_KINDS,
    Accepted,
    Body,
    Cancel,
    Deploy,
    ErrorPart,
    Instruction,
    Progress,
    Rebirth,
    Received,
    Refused,
    Upgrade,
    Withdraw,
    open_body,
)
from argosy_common.wire.envelope import Envelope, decode, encode
from argosy_common.wire.topics import DeviceTopics

log = get_logger(__name__)

COORDINATOR = "coordinator"
CHUNK_EXPIRY_S = 120
JOB_KINDS: tuple[type[Body], ...] = (Instruction, Cancel)
CONTROL_KINDS: tuple[type[Body], ...] = (Received, Rebirth, Refused, Deploy, Withdraw, Upgrade, *TRANSFER_KINDS)
UNACKNOWLEDGED: tuple[type[Body], ...] = (*TRANSFER_KINDS, Accepted, Progress)
"""Kinds whose loss costs nothing, or that are said again by our own timers, and so go with QoS 0."""

B = TypeVar("B", bound=Body)


class Gateway:
    """Routes the messages of one device. Handlers run on the link's thread and must be quick."""

    def __init__(self, link: Link, names: DeviceTopics) -> None:
        self._link = link
        self._names = names
        self._handlers: dict[type[Body], Callable[[Envelope, Any], None]] = {}
        self._on_chunk: Callable[[bytes], object] = lambda _frame: None
        link.subscribe(names.jobs, lambda each: self._receive(each, JOB_KINDS), qos=1, manual_ack=True)
        link.subscribe(names.control_down, lambda each: self._receive(each, CONTROL_KINDS), qos=1)
        link.subscribe(names.chunks_down, lambda each: self._on_chunk(each.payload), qos=0)

    def handle(self, kind: type[B], handler: Callable[[Envelope, B], None]) -> None:
        """Send bodies of this kind to `handler(envelope, body)`."""
        self._handlers[kind] = handler

    def handle_chunks(self, handler: Callable[[bytes], object]) -> None:
        """Send chunk frames to `handler(frame)`."""
        self._on_chunk = handler

    # --- outward; each returns False, with nothing queued, when the link is down ---------------------------------

    def post(self, body: Body, *, run: int | None = None, reply_to: str | None = None) -> bool:
        """Publish an event: Accepted, Progress, ModelState, UpgradeState, Refused."""
        return self.post_event(Envelope(kind=body.kind, body=body.pack(), run=run, reply_to=reply_to), type(body))

    def post_event(self, envelope: Envelope, kind: type[Body]) -> bool:
        """Publish an event whose envelope is made already."""
        return self._link.publish(self._names.events, encode(envelope), qos=0 if kind in UNACKNOWLEDGED else 1)

    def post_control(self, _peer: str, body: Body) -> bool:
        """Publish transfer control."""
        envelope = Envelope(kind=body.kind, body=body.pack())
        qos = 0 if isinstance(body, UNACKNOWLEDGED) else 1
        return self._link.publish(self._names.control_up, encode(envelope), qos=qos)

    def post_chunk(self, _peer: str, sink: str, frame: bytes) -> bool:
        """Publish a chunk to the coordinator's worker `sink`."""
        try:
            topic = self._names.chunks_up(sink)
        except ValueError:
            log.warning("gateway.bad_sink", sink=sink[:80])
            return False
        return self._link.publish(topic, frame, qos=0, expires_s=CHUNK_EXPIRY_S)

    def refuse(self, error: ArgosyError, reply_to: str | None) -> None:
        """Tell the coordinator that a message of its was not taken, and why."""
        log.warning("gateway.refused", code=error.code, why=error.message, message=reply_to)
        self.post(Refused(error=error_part(error)), reply_to=reply_to)

    # --- inward --------------------------------------------------------------------------------------------------

    def _receive(self, delivery: Delivery, allowed: tuple[type[Body], ...]) -> None:
        envelope: Envelope | None = None
        try:
            envelope = decode(delivery.payload, peer=COORDINATOR)
            self._dispatch(envelope, allowed)
        except ArgosyError as error:
            if envelope is None or envelope.kind != Refused.kind:  # a refusal is never answered
                self.refuse(error, envelope.id if envelope else None)
        except Exception as error:  # noqa: BLE001  (our bug must be told to the coordinator, not stall the link)
            log.error("gateway.handler_failed", exc=error, kind=envelope.kind if envelope else None)
            what = f"{type(error).__name__} while a device handled a message"
            self.refuse(ProgrammingError(what=what), envelope.id if envelope else None)
        finally:
            delivery.acknowledge()

    def _dispatch(self, envelope: Envelope, allowed: tuple[type[Body], ...]) -> None:
        kind = KINDS.get(envelope.kind)
        if kind is None:
            raise KindUnknown(peer=COORDINATOR, kind=envelope.kind)
        if kind not in allowed:
            raise EnvelopeMalformed(peer=COORDINATOR, why=f"'{envelope.kind}' is not sent on this topic")
        self._handlers[kind](envelope, open_body(envelope, peer=COORDINATOR))


def error_part(error: ArgosyError) -> ErrorPart:
    """Return the wire form of an error, cut so that it fits an envelope whatever an app put into it."""
    facts = {name[:64]: value[:512] for name, value in list(error.facts.items())[:16]}
    return ErrorPart(code=error.code, message=error.message[:2048], remedy=error.remedy_text[:1024], facts=facts)
