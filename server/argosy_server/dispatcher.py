"""Carries instructions to devices and their replies back, through restarts of either end and of the broker.

An instruction is in the database before it is sent, is sent again until the device says that it is journaled, and is
answered exactly once: by the device's reply, by its deadline, or because the device was lost. A reply is in the
database before its receipt goes out; duplicates and late replies get a receipt and nothing else. States and transitions
are those of `argosy_server.store.instructions`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Sequence

from argosy_common.blobs import BlobRef, BlobStore
from argosy_common.blobs.exchange import BlobExchange, no_urls
from argosy_common.clock import Clock
from argosy_common.errors import ArgosyError, DeviceLost, ReplyInvalid, ReplyTimedOut, TransferRefused, error_from_wire
from argosy_common.logs import get_logger
from argosy_common.wire.bodies import (
    TRANSFER_KINDS,
    Accepted,
    Birth,
    BlobPart,
    Cancel,
    Death,
    Heartbeat,
    Offer,
    Progress,
    Rebirth,
    Received,
    Refused,
    Reply,
)
from argosy_common.wire.envelope import MAX_BLOBS, Envelope, encode
from argosy_server.collector import Collector
from argosy_server.crash_points import reach
from argosy_server.gateway import Gateway
from argosy_server.group_commit import GroupCommit
from argosy_server.instruction import (
    Answer,
    Answered,
    Outgoing,
    Pending,
    RunApp,
    answer_of,
    instruction_envelope,
    restored,
)
from argosy_server.registry import Presence, Registry
from argosy_server.store import InstructionAnswer, InstructionRow, InstructionState, NewInstruction, Store
from argosy_server.store.rows import OPEN_STATES
from argosy_server.twins import Twins

log = get_logger(__name__)


AnswerListener = Callable[[Answer], None]


class Dispatcher:
    """The coordinator's end of every instruction. Safe to use from any thread."""

    def __init__(
        self,
        *,
        gateway: Gateway,
        store: Store,
        blobs: BlobStore,
        registry: Registry,
        clock: Clock,
        sink: str,
        resend_s: float,
        grace_s: float,
        max_upload: int,
        urls: Callable[[BlobRef], list[str]] = no_urls,
    ) -> None:
        self._gateway = gateway
        self._store = store
        self._blobs = blobs
        self._registry = registry
        self._clock = clock
        self._resend_s = resend_s
        self._grace_s = grace_s
        self._max_upload = max_upload
        self._pending: dict[str, Pending] = {}
        self._owed: dict[str, dict[str, Pending]] = {}
        """The same by device, so that one of thousands costs no look at all others. No entry where nothing is owed."""
        self._listeners: dict[int, AnswerListener] = {}
        self._overdue: dict[str, Pending] = {}
        """Instructions that nobody waits for any more while their devices may still be at them: they answer late."""
        self._uploads: dict[str, dict[bytes, int]] = {}
        """By device, the blobs (and their sizes) that it offered and no reply has named yet."""
        self._on_unclaimed: Callable[[Collection[bytes]], None] = lambda _digests: None
        self._also_serves: Callable[[str, bytes], bool] = lambda _device, _digest: False
        self._dead: dict[str, set[int]] = {}
        """By device, the runs that it does not know to be over."""
        self._told: dict[int, set[str]] = {}
        """By run that is gone on with, the answers that its process has been told of since."""
        self._lock = threading.RLock()
        self.twins = Twins(store, clock=clock)
        self._ledger = GroupCommit("ledger", self._record, self._not_recorded)
        self.exchange = BlobExchange(
            blobs,
            clock=clock,
            sink=sink,
            post=gateway.post,
            post_chunk=gateway.post_chunk,
            allow_upload=self._allow_upload,
            may_serve=self._may_serve,
            urls=urls,
        )
        gateway.handle(Birth, self._on_birth)
        gateway.handle(Death, self._on_death)
        gateway.handle(Heartbeat, self._on_heartbeat)
        gateway.handle(Accepted, self._on_accepted)
        gateway.handle(Progress, self._on_progress)
        gateway.handle(Reply, self._on_reply)
        gateway.handle(Refused, self._on_refused)
        for kind in TRANSFER_KINDS:
            gateway.handle(kind, lambda device, _envelope, body: self.exchange.handle(device, body))
        gateway.handle_chunks(self.exchange.handle_chunk)
        registry.on_lost(self._on_lost)

    # --- for runs

    def listen(self, run: int, listener: AnswerListener) -> None:
        """Send the answers of `run` to `listener`, which is called on the link's or a worker's thread; be quick."""
        with self._lock:
            self._listeners[run] = listener

    def on_unclaimed(self, listener: Callable[[Collection[bytes]], None]) -> None:
        """Name who is told of blobs that devices brought and no answer refers to, so that they do not fill the disk."""
        self._on_unclaimed = listener

    def serves_also(self, may: Callable[[str, bytes], bool]) -> None:
        """Name who tells which blobs a device may fetch besides those of its instructions."""
        self._also_serves = may

    def restore(self, run: int, rows: Iterable[InstructionRow]) -> None:
        """Take up what devices still owe to a run that is gone on with, before anybody hears of us.

        Their replies are kept for the run's process, which asks for the same again (`resubmit`).
        """
        now = self._clock.monotonic()
        self._told[run] = set()
        for row in rows:
            self._expect(restored(row, now))

    def resubmit(self, app: RunApp, messages: Collection[Outgoing]) -> None:
        """Do as `submit`; but what is known is not asked for again, and what is answered is answered at once."""
        known = self._store.instructions.known([out.id for out in messages])
        fresh = [out for out in messages if out.id not in known]
        if fresh:
            self.submit(app, fresh)
        for row in known.values():
            with self._lock:
                waits = row.id in self._pending or row.id in self._told.get(app.run, ())
                listener = self._listeners.get(app.run)
            if not waits and listener is not None and row.state not in OPEN_STATES:
                listener(answer_of(row, self._blobs))

    def settle_for(self, run: int, ids: Collection[str]) -> None:
        """A run that is gone on with has asked for `ids` again: what else was open in it is not waited for."""
        with self._lock:
            others = [it for it in self._pending.values() if it.run == run and it.out.id not in ids]
            for entry in others:
                self._forget(entry)
        if others:
            log.info("dispatcher.not_asked_again", run=run, instructions=len(others))

    def submit(self, app: RunApp, messages: Iterable[Outgoing]) -> None:
        """Record the messages, then send them. Returns once they are in the database."""
        now = self._clock.monotonic()
        entries = [
            Pending(
                out=out,
                run=app.run,
                envelope=encode(instruction_envelope(app, out)),
                digests=(*(ref.digest for ref in out.blobs), app.bundle.digest),
                submitted_at=now,
                expires_at=now + out.deadline_s,
            )
            for out in messages
        ]
        self._store.instructions.add_many(
            [
                NewInstruction(
                    id=entry.out.id,
                    run=app.run,
                    round=entry.out.round or 0,
                    device=entry.out.device,
                    message_type=entry.out.message_type,
                    envelope=entry.envelope,
                    deadline_s=entry.out.deadline_s,
                )
                for entry in entries
            ]
        )
        reach("instructions.recorded")
        with self._lock:
            for entry in entries:
                self._expect(entry)
        for entry in entries:
            self._send(entry)
        reach("instructions.sent")

    def _expect(self, entry: Pending) -> None:
        with self._lock:
            self._pending[entry.out.id] = entry
            self._owed.setdefault(entry.out.device, {})[entry.out.id] = entry

    def give_up(self, ids: Iterable[str], seconds: float) -> None:
        """Stop waiting for these: their devices did not answer within `seconds`."""
        for each in ids:
            with self._lock:
                entry = self._pending.get(each)
            if entry is not None:
                self._answer(
                    entry,
                    None,
                    ReplyTimedOut(device=entry.out.device, seconds=round(seconds, 1)),
                    InstructionState.EXPIRED,
                )

    def shut_out(self, device: str) -> None:
        """An operator revoked the device: nothing is taken of it, and what it owed is answered with `device-lost`."""
        self._gateway.forget(device)
        self.exchange.peer_down(device)
        self.twins.forget(device)
        self._registry.shut_out(device)

    def readmit(self, device: str) -> None:
        """An operator let it in again."""
        self._gateway.forget(device)
        self._registry.readmit(device)

    def close_run(self, run: int) -> None:
        """Forget a run: cancel what is open, and tell the devices that took part to drop its state."""
        with self._lock:
            self._listeners.pop(run, None)
            self._told.pop(run, None)
            mine = [entry for entry in self._pending.values() if entry.run == run]
            for entry in mine:
                self._forget(entry)
            self._overdue = {name: entry for name, entry in self._overdue.items() if entry.run != run}
        self._store.instructions.cancel_run(run)
        for device in self._store.instructions.devices_of(run):
            self._gateway.post(device, Cancel(), run=run)
        self._store.instructions.drop_payloads(run)

    def bury(self, run: int) -> None:
        """Have the devices drop a run that was interrupted by our own end, each as soon as it is seen again.

        Their births would not tell of it: where the broker outlived us, a device was never disconnected.
        """
        for device in self._store.instructions.devices_of(run):
            self._dead.setdefault(device, set()).add(run)

    def needs(self, digest: bytes) -> bool:
        """Tell whether an open instruction, or a reply that is being collected, refers to this blob."""
        with self._lock:
            return any(digest in entry.digests or digest in entry.reply_digests for entry in self._pending.values())

    def may_download(self, device: str, digest: bytes) -> bool:
        """Tell whether a device may have a blob by HTTPS: just as over MQTT, where the gateway asks the first half."""
        return self._gateway.welcomes(device) and self._may_serve(device, digest)

    # --- time

    def tick(self) -> None:
        """Re-send, expire and pace transfers. Called about once a second."""
        now = self._clock.monotonic()
        with self._lock:
            entries = list(self._pending.values())
        for entry in entries:
            if now >= entry.expires_at:
                late = ReplyTimedOut(device=entry.out.device, seconds=round(entry.out.deadline_s, 1))
                self._answer(entry, None, late, InstructionState.EXPIRED)
            elif self._hopeless(entry, now):
                lost = DeviceLost(device=entry.out.device, grace_s=round(self._grace_s))
                self._answer(entry, None, lost, InstructionState.FAILED)
            elif not entry.accepted and (entry.sent_at is None or now - entry.sent_at >= self._resend_s):
                self._send(entry)
        self.exchange.tick()

    def _hopeless(self, entry: Pending, now: float) -> bool:
        """Tell whether nobody is there to answer: the device was lost before it was asked, or was never seen."""
        presence = self._registry.view(entry.out.device).presence
        never_seen = presence is Presence.UNSEEN and now - entry.submitted_at >= self._grace_s
        return presence in (Presence.LOST, Presence.SHUT_OUT) or never_seen

    def link_up(self) -> None:
        """The broker is back, perhaps with an empty memory: send what is not known to be journaled."""
        self._registry.link_up()
        with self._lock:
            entries = [entry for entry in self._pending.values() if not entry.accepted]
        for device in self._registry.online():
            self.exchange.peer_up(device)
        for entry in entries:
            self._send(entry)

    def link_down(self) -> None:
        """The broker is gone: nothing is in flight any more."""
        self._registry.link_down()
        for device in self._registry.online():
            self.exchange.peer_down(device)

    def close(self) -> None:
        """Stop transfers and record what has arrived."""
        self.exchange.close()
        self._ledger.close()

    # --- from devices

    def _on_birth(self, device: str, _envelope: Envelope, body: Birth) -> None:
        fresh = self._registry.born(device, body, self._gateway.site(device))
        self.exchange.peer_up(device)
        known = set(body.pending)
        with self._lock:
            mine = list(self._owed.get(device, {}).values())
            for entry in mine:
                # what the device says it holds needs no sending; all else it may have lost, so it gets it again
                entry.accepted = entry.out.id in known
            lost = [it for it in self._overdue.values() if it.out.device == device and it.out.id not in known]
        for entry in mine:
            if not entry.accepted:
                self._send(entry)
        for entry in lost:
            self._tell_late(device, entry.out.id, None)
        if fresh:  # last, like all that the database may refuse: the device has its work by then
            self._store.devices.seen(device, boot=body.boot, version=body.version, machine=body.machine, name=body.name)
            log.info("device.online", device=device, name=body.name, boot=body.boot[:8], session=body.session)
        self._cancel_the_dead(device, known - {entry.out.id for entry in mine})
        self.twins.born(device, body)

    def _cancel_the_dead(self, device: str, ids: set[str]) -> None:
        """Spare a device the work of runs that ended while it was away."""
        runs = self._store.instructions.runs_of(device, ids) | self._dead.pop(device, set())
        for run in sorted(runs):
            if run not in self._listeners:
                self._gateway.post(device, Cancel(), run=run)

    def _on_death(self, device: str, _envelope: Envelope, body: Death) -> None:
        self._registry.died(device, body)
        if not self._registry.view(device).online:
            self.exchange.peer_down(device)
            log.info("device.offline", device=device, clean=body.clean)

    def _on_heartbeat(self, device: str, _envelope: Envelope, body: Heartbeat) -> None:
        if not self._registry.view(device).online:
            # its birth was lost, or we were away: ask for it rather than guess
            self._gateway.post(device, Rebirth())
        self._registry.beat(device, body)

    def _on_accepted(self, device: str, envelope: Envelope, _body: Accepted) -> None:
        entry = self._entry(device, envelope)
        if entry is not None and not entry.accepted:
            entry.accepted = True
            self._store.instructions.accepted(entry.out.id)
            reach("instruction.accepted")

    def _on_progress(self, device: str, envelope: Envelope, body: Progress) -> None:
        if self._entry(device, envelope) is not None:
            self._registry.does(device, body.doing)

    def _on_refused(self, device: str, envelope: Envelope, body: Refused) -> None:
        error = error_from_wire(body.error.model_dump())
        log.warning("device.refused", device=device, message=envelope.reply_to, code=error.code, why=error.message)
        entry = self._entry(device, envelope)
        if entry is not None:
            self._answer(entry, None, error, InstructionState.FAILED)

    def _on_reply(self, device: str, envelope: Envelope, body: Reply) -> None:
        entry = self._entry(device, envelope)
        if entry is None:
            log.info("dispatcher.late_or_repeated_reply", device=device, message=envelope.reply_to)
            self._gateway.post(device, Received(), reply_to=envelope.reply_to)
            self._tell_late(device, envelope.reply_to or "", body)
            return
        reach("reply.arrived")
        with self._lock:
            if entry.collecting:
                return  # a repetition, while its blobs are on their way
            entry.collecting = True
            entry.reply_digests = tuple(part.digest for part in body.blobs)
            for digest in entry.reply_digests:
                self._uploads.get(device, {}).pop(digest, None)
        size = sum(part.size for part in body.blobs)
        if size > self._max_upload:
            why = f"its blobs have {size} bytes, over the limit of {self._max_upload}"
            self._answer(entry, body, ReplyInvalid(why=why), InstructionState.FAILED)
            return
        missing = [ref for part in body.blobs if not self._blobs.has((ref := _ref(part)).digest)]
        size = len(envelope.body)
        Collector(entry, body, missing, size, exchange=self.exchange, clock=self._clock, done=self._ledger.put).start()

    def _allow_upload(self, device: str, offer: Offer) -> ArgosyError | None:
        """Devices upload only while they owe an answer, and only what fits."""
        with self._lock:
            owes = device in self._owed
        if not owes:
            return TransferRefused(peer="the coordinator", digest=offer.digest.hex(), why="nothing is due from you")
        with self._lock:
            others = {**self._uploads.get(device, {}), offer.digest: offer.size}
            if len(others) <= MAX_BLOBS and sum(others.values()) <= self._max_upload:
                self._uploads[device] = others
                return None
        why = f"{len(others)} blobs of {sum(others.values())} bytes are over the limit of {self._max_upload}"
        return TransferRefused(peer="the coordinator", digest=offer.digest.hex(), why=why)

    def _may_serve(self, device: str, digest: bytes) -> bool:
        """A device may fetch what an instruction or a rollout of its own refers to, and nothing else."""
        with self._lock:
            if any(digest in entry.digests for entry in self._owed.get(device, {}).values()):
                return True
        return self._also_serves(device, digest)

    def _on_lost(self, device: str) -> None:
        log.warning("device.lost", device=device, grace_s=self._grace_s)
        with self._lock:
            mine = list(self._owed.get(device, {}).values())
        for entry in mine:
            self._answer(entry, None, DeviceLost(device=device, grace_s=round(self._grace_s)), InstructionState.FAILED)

    # --- inside

    def _entry(self, device: str, envelope: Envelope) -> Pending | None:
        """Return the pending instruction that `device` answers; another device's is none of its business."""
        with self._lock:
            entry = self._pending.get(envelope.reply_to or "")
        return entry if entry is not None and entry.out.device == device else None

    def _forget(self, entry: Pending) -> bool:
        """Wait for it no longer; False if nobody does. With the lock held."""
        device = entry.out.device
        owed = self._owed.get(device, {})
        owed.pop(entry.out.id, None)
        if not owed:
            self._owed.pop(device, None)
        return self._pending.pop(entry.out.id, None) is not None

    def _send(self, entry: Pending) -> None:
        now = self._clock.monotonic()
        if not self._registry.view(entry.out.device).online:
            return  # its birth will send it
        if self._gateway.post_job(entry.out.device, entry.envelope, expires_s=max(1.0, entry.expires_at - now)):
            entry.sent_at = now

    def _answer(self, entry: Pending, reply: Reply | None, error: ArgosyError | None, state: InstructionState) -> None:
        """Have the one answer of an instruction recorded; `_record` goes on from there."""
        self._ledger.put(Answered(entry, reply, error, state))

    def _record(self, answers: Sequence[Answered]) -> None:
        """Record answers, then send the receipts, then tell the runs."""
        self._store.instructions.answered_many(
            [
                InstructionAnswer(
                    id=each.entry.out.id,
                    state=each.state,
                    reply=each.reply.pack() if each.reply is not None else None,
                    error=each.error.to_wire() if each.error else None,
                )
                for each in answers
            ]
        )
        reach("reply.recorded")
        for each in answers:
            entry = each.entry
            if each.reply is not None:
                self._gateway.post(entry.out.device, Received(), reply_to=entry.out.id)
            reach("receipt.sent")
            told = self._tell(each)
            reach("answer.forwarded")
            self._tidy(entry.out.device, each.fetched if not told else ())

    def _tidy(self, device: str, unclaimed: tuple[bytes, ...]) -> None:
        """Have deleted what came with an answer that was too late, and what a device brought and never named."""
        with self._lock:
            owes = device in self._owed
            never_named = {} if owes else self._uploads.pop(device, {})
        for digest in never_named:
            self.exchange.cancel(device, digest)
        if unclaimed or never_named:
            self._on_unclaimed({*unclaimed, *never_named})

    def _tell(self, answered: Answered) -> bool:
        """Tell the run of an answer; False if it was told of another before."""
        entry = answered.entry
        with self._lock:
            # Of several answers the first counts. What is pending decides, not what the database had news of: it may
            # have committed and told us that it failed.
            first = self._forget(entry)
            if first and isinstance(answered.error, ReplyTimedOut | DeviceLost):
                self._overdue[entry.out.id] = entry
            listener = self._listeners.get(entry.run)
            if first and entry.run in self._told:
                self._told[entry.run].add(entry.out.id)
        if not first:
            if answered.reply is not None:
                self._tell_late(entry.out.device, entry.out.id, answered.reply)
            return False
        self._registry.does(entry.out.device, "idle")
        if listener is not None:
            listener(
                Answer(
                    id=entry.out.id,
                    device=entry.out.device,
                    reply=answered.reply,
                    error=answered.error,
                    bytes_up=answered.bytes_up,
                    upload_s=answered.upload_s,
                )
            )
        return True

    def _tell_late(self, device: str, message: str, reply: Reply | None) -> None:
        """Tell the run of a reply that came too late, once, while it is under way; what the reply holds is not kept.

        None is told of where there will be none: the device came back and has nothing of its instruction.
        """
        with self._lock:
            entry = self._overdue.get(message)
            if entry is None or entry.out.device != device:
                return
            del self._overdue[message]
            listener = self._listeners.get(entry.run)
        if reply is not None:
            self._registry.does(device, "idle")
        if listener is not None:
            error = error_from_wire(reply.error.model_dump()) if reply and reply.error else None
            listener(Answer(id=message, device=device, reply=reply, error=error, late=True))

    def _not_recorded(self, answers: Sequence[Answered], error: Exception) -> None:
        """The database failed: let the devices send their replies again, and deadlines pass again."""
        for each in answers:
            log.error("dispatcher.answer_not_recorded", message=each.entry.out.id, why=str(error))
            each.entry.collecting = False


def _ref(part: BlobPart) -> BlobRef:
    return BlobRef(part.digest, part.size)
