"""Instructions, from their arrival to their answer: one after the other, in the order of arrival, on one thread.

An instruction is in the journal before it is acknowledged, and is answered by a reply or by a named error. One that was
cut short by a crash runs again from the context that the run's last answer left, so it is as if it had not begun.
Expiry is judged by the time since the arrival on this device's monotonic clock; after a restart that time is unknown,
so the instruction is run, and the coordinator judges.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from argosy_client.gateway import COORDINATOR, Gateway, error_part
from argosy_client.instruction import RESUME, Resume, State
from argosy_client.journal import Entry, Journal, RunState
from argosy_client.outbox import Outbox
from argosy_client.run_files import RunFiles
from argosy_client.worker.host import WorkerHost, WorkerJob, WorkerResult
from argosy_common.blobs import BlobRef, BlobStore
from argosy_common.blobs.exchange import BlobExchange, TransferOutcome
from argosy_common.blobs.ranges import LARGE
from argosy_common.clock import Clock
from argosy_common.errors import (
    ArgosyError,
    DiskFull,
    EnvelopeMalformed,
    InstructionCancelled,
    InstructionExpired,
    ProgrammingError,
    ReplyInvalid,
    StorageFailed,
    TransferTimedOut,
    WorkerDied,
)
from argosy_common.logs import get_logger
from argosy_common.wire.bodies import Accepted, BlobPart, Cancel, Instruction, Progress, Reply
from argosy_common.wire.envelope import Envelope

log = get_logger(__name__)

MAX_ATTEMPTS = 3
"""An instruction that takes the whole board down with it each time is given up after so many."""
SHUTDOWN_GRACE_S = 0.2
"""A service manager may end the worker a moment before it ends us; that is no fault of the app."""
FETCH_BOUND_S = 2 * 3600.0
"""The longest wait for a blob of an instruction without a deadline; the exchange gives up long before."""

NodeConfig = dict[str, bool | int | float | str]


class _Current:
    """The instruction that the job thread is at."""

    def __init__(self, entry: Entry, deadline: float | None) -> None:
        self.entry = entry
        self.deadline = deadline
        self.doing = "preparing"
        self.told = "preparing"
        self.cancelled = threading.Event()
        self.fetched: queue.SimpleQueue[TransferOutcome | None] = queue.SimpleQueue()

    def cancel(self) -> None:
        """Wake the job thread wherever it waits, and have it give up."""
        self.cancelled.set()
        self.fetched.put(None)


class Jobs:
    """Takes instructions in and works them off. `accept`, `cancel` and `doing` may be called from any thread."""

    def __init__(
        self,
        *,
        journal: Journal,
        gateway: Gateway,
        exchange: BlobExchange,
        store: BlobStore,
        files: RunFiles,
        host: WorkerHost,
        outbox: Outbox,
        clock: Clock,
        node_config: NodeConfig,
    ) -> None:
        self._journal = journal
        self._gateway = gateway
        self._exchange = exchange
        self._store = store
        self._files = files
        self._host = host
        self._outbox = outbox
        self._clock = clock
        self._node_config = node_config
        self._deadlines: dict[str, float] = {}
        self._unsaid: dict[str, int] = {}
        """Instructions, by id with their run, that are journaled and not yet acknowledged."""
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._current: _Current | None = None
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._loop, name="jobs", daemon=True)

    def start(self) -> None:
        """Go on with what the journal holds, then take what comes."""
        self._work.put(self._tidy)
        unfinished = self._journal.open()
        if not unfinished:
            self._store.sweep()  # no half-fetched blob will be gone on with
        for entry in unfinished:
            log.info("job.resumed", message=entry.id, run=entry.run, state=entry.state, attempts=entry.attempts)
            if RESUME[entry.state] is Resume.RUN:
                self._work.put(partial(self._take, entry, resumed=True))
            else:
                self._post(entry)
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Interrupt the job at hand, to be run again at the next start, and end the thread."""
        self._stopping.set()
        with self._lock:
            current = self._current
        if current is not None:
            current.cancel()
        self._work.put(None)
        self._thread.join(timeout_s)

    @property
    def doing(self) -> str:
        """What the device is at, in a word."""
        with self._lock:
            current = self._current
        if current is not None:
            return current.doing
        return "uploading" if self._outbox.uploading else "idle"

    def trouble(self) -> str:
        """Say that the job thread has ended, if it has. How long a job may take is bounded where it is done."""
        return "" if self._thread.is_alive() else "the job thread has ended"

    def tick(self) -> None:
        """Say what was accepted and what the job at hand is at, where that is news: called about once a second.

        A job that is over sooner says neither: its reply says both, and a small round costs no bytes for it.
        """
        for message, run in list(self._unsaid.items()):
            if self._unsaid.pop(message, None) is not None:  # else its reply was faster
                self._gateway.post(Accepted(), run=run, reply_to=message)
        with self._lock:
            current = self._current
        if current is not None and (doing := current.doing) != current.told:
            current.told = doing
            self._gateway.post(Progress(doing=doing), run=current.entry.run, reply_to=current.entry.id)

    # --- on the link's thread ------------------------------------------------------------------------------------

    def accept(self, envelope: Envelope, body: Instruction) -> None:
        """Write an instruction down and say so; one that is known is answered by what is known of it."""
        if envelope.run is None:
            raise EnvelopeMalformed(peer=COORDINATOR, why="an instruction without a run")
        try:
            entry, new = self._journal.receive(
                message=envelope.id,
                run=envelope.run,
                round_=envelope.round,
                expires_in=envelope.expires_in,
                app=body.app.digest,
                body=envelope.body,
            )
        except (DiskFull, StorageFailed) as error:
            # nothing is promised, so the coordinator sends it again should this answer be lost
            log.error("job.not_journaled", message=envelope.id, code=error.code, why=error.message)
            self._gateway.post(Reply(error=error_part(error)), run=envelope.run, reply_to=envelope.id)
            return
        if new:
            if entry.expires_in is not None:
                self._deadlines[entry.id] = self._clock.monotonic() + entry.expires_in
            self._work.put(partial(self._take, entry))
        self._acknowledge(entry, new=new)

    def _acknowledge(self, entry: Entry, *, new: bool) -> None:
        """Answer a delivery by where its instruction stands."""
        if not new:
            log.info("job.repeated", message=entry.id, state=entry.state)
        if entry.state is State.CANCELLED:
            return  # its run is over; whoever sent it has forgotten it by now
        if new:
            self._unsaid[entry.id] = entry.run  # a reply within a moment says it as well; else `tick` does
        else:
            self._gateway.post(Accepted(), run=entry.run, reply_to=entry.id)
        if entry.state in (State.ANSWERED, State.DELIVERED) and not self._outbox.repeat(entry.id):
            self._post(entry)

    def cancel(self, envelope: Envelope, _body: Cancel) -> None:
        """Drop a run: its instructions, its replies, its app and its context."""
        if envelope.run is None:
            raise EnvelopeMalformed(peer=COORDINATOR, why="a cancel without a run")
        try:
            dropped = self._journal.cancel(envelope.run)
        finally:  # a disk that is full must not keep the board at work for nobody
            with self._lock:
                current = self._current
            if current is not None and current.entry.run == envelope.run:
                current.cancel()
        log.info("run.cancelled", run=envelope.run, instructions=len(dropped))
        for each in dropped:
            self._deadlines.pop(each, None)
            self._outbox.cancel(each)
        self._work.put(partial(self._forget_run, envelope.run))

    # --- on the job thread ---------------------------------------------------------------------------------------

    def _loop(self) -> None:
        while (task := self._work.get()) is not None:
            try:
                task()
            except Exception as error:  # noqa: BLE001  (the daemon outlives every job; the failure is logged)
                log.error("job.failed", exc=error)

    def _tidy(self) -> None:
        self._files.sweep(self._journal.trim_runs())

    def _forget_run(self, run: int) -> None:
        self._host.drop_run(run)
        self._tidy()

    def _take(self, entry: Entry, *, resumed: bool = False) -> None:
        """Work one instruction off, from the journal to the outbox."""
        current = _Current(entry, self._deadlines.pop(entry.id, None))
        with self._lock:
            self._current = current  # from here on a cancel or a stop finds it
        try:
            if self._stopping.is_set():
                return
            current.entry = self._journal.start(entry.id, resumed=resumed)
            if current.entry.state is State.RUNNING:  # and not cancelled while it waited
                self._answer(current, *self._outcome(current))
        except InstructionCancelled:
            log.info("job.interrupted", message=entry.id, stopping=self._stopping.is_set())
            if self._stopping.is_set():
                self._journal.interrupt(entry.id)
        except (DiskFull, StorageFailed) as error:
            # the journal does not take it: tell the coordinator all the same, so that the round need not wait
            log.error("job.not_journaled", message=entry.id, code=error.code, why=error.message)
            self._outbox.post(current.entry, Reply(error=error_part(error)))
        finally:
            with self._lock:
                self._current = None

    def _outcome(self, current: _Current) -> tuple[Reply, Path | None]:
        """Return the reply to an instruction and the context it leaves, or the error that stands for it.

        Raises:
            InstructionCancelled: it is not wanted any more, or not now.
        """
        try:
            return self._run(current)
        except InstructionCancelled:
            raise
        except ArgosyError as error:
            failure = error
        except Exception as error:  # noqa: BLE001  (a bug of ours is an answer too: the round must not wait for it)
            log.error("job.bug", exc=error, message=current.entry.id)
            failure = ProgrammingError(what=f"{type(error).__name__}: {error}")
        if isinstance(failure, WorkerDied):
            self._stopping.wait(SHUTDOWN_GRACE_S)
        if current.cancelled.is_set() or self._stopping.is_set():
            raise InstructionCancelled(message=current.entry.id)  # what failed, failed because of that
        log.warning("job.failed", message=current.entry.id, code=failure.code, why=failure.message)
        return Reply(error=error_part(failure)), None

    def _run(self, current: _Current) -> tuple[Reply, Path]:
        entry = current.entry
        if entry.attempts > MAX_ATTEMPTS:
            raise WorkerDied(why=f"the device itself went down {MAX_ATTEMPTS} times while it ran this instruction")
        instruction = Instruction.unpack(entry.body, peer=COORDINATOR)
        bundle = _ref(instruction.app)
        wanted = tuple(dict.fromkeys(_ref(part) for part in instruction.blobs))
        if not self._files.has_app(bundle.digest):
            wanted = (bundle, *wanted)
        for ref in wanted:
            self._store.pin(ref.digest)
        try:
            self._store.trim()  # of what the worker put there, unnoticed by our limit; what is wanted now is pinned
            began = self._clock.monotonic()
            fetched = self._fetch(current, [ref for ref in wanted if not self._store.has(ref.digest)])
            fetch_s = self._clock.monotonic() - began
            for each in fetched:
                log.info("job.fetched", message=entry.id, digest=each.ref.hex, bytes=each.wire_bytes, via=each.via)
            app_dir = self._files.app(bundle)
            self._refuse_late(current)
            current.doing = "running"
            context = self._files.new_context(entry.run, entry.id)
            result = self._in_worker(current, self._job(entry, instruction, app_dir, context))
        finally:
            for ref in wanted:
                self._store.unpin(ref.digest)
        return _reply(result, fetch_s=fetch_s, fetched=fetched, instruction=len(entry.body)), context

    def _in_worker(self, current: _Current, job: WorkerJob) -> WorkerResult:
        try:
            return self._host.run(job, current.cancelled)
        except BaseException:
            self._drop_context(job.context_out)
            raise

    def _job(self, entry: Entry, instruction: Instruction, app_dir: Path, context: Path) -> WorkerJob:
        state = self._journal.run(entry.run)
        return WorkerJob(
            run=entry.run,
            app_digest=instruction.app.digest.hex(),
            app_dir=app_dir,
            client_app=instruction.client_app,
            node_id=instruction.node_id,
            message_id=entry.id,
            flower=instruction.flower,
            context_in=self._context(state),
            context_out=context,
            run_config=dict(instruction.run_config),
            node_config=self._node_config,
        )

    def _context(self, state: RunState | None) -> Path | None:
        """Return where the run's last context is; None at its first instruction, and where the file is lost.

        A device whose card lost the file is like one that is new to the run: better that than never answering again.
        """
        if state is None or not state.context:
            return None
        path = self._files.context(state.context)
        if path.is_file():
            return path
        log.error("job.context_lost", run=state.run, path=path)
        return None

    def _fetch(self, current: _Current, missing: list[BlobRef]) -> list[TransferOutcome]:
        """Get blobs side by side; return how each of them came."""
        self._refuse_late(current)
        if not missing:
            return []
        current.doing = "fetching"
        for ref in missing:
            self._exchange.fetch(COORDINATOR, ref, current.fetched.put)
        try:
            return [self._next_fetched(current) for _ in missing]
        except ArgosyError:
            for ref in missing:
                self._exchange.cancel(COORDINATOR, ref.digest)
            raise

    def _next_fetched(self, current: _Current) -> TransferOutcome:
        left = FETCH_BOUND_S if current.deadline is None else current.deadline - self._clock.monotonic()
        try:
            outcome = current.fetched.get(timeout=max(0.0, left))
        except queue.Empty:
            self._refuse_late(current)
            raise TransferTimedOut(digest="of an instruction", peer=COORDINATOR, seconds=FETCH_BOUND_S) from None
        if outcome is None:
            raise InstructionCancelled(message=current.entry.id)
        if outcome.error is not None:
            raise outcome.error
        return outcome

    def _refuse_late(self, current: _Current) -> None:
        if current.deadline is not None and self._clock.monotonic() >= current.deadline:
            raise InstructionExpired(message=current.entry.id)

    def _answer(self, current: _Current, reply: Reply, context: Path | None) -> None:
        """Journal the answer, then have it sent.

        Raises:
            DiskFull, StorageFailed: it is not journaled, and so must not be sent.
        """
        entry = current.entry
        try:
            before = self._journal.run(entry.run)
            state = self._journal.answer(entry.id, reply.pack(), context=context.name if context else None)
        except (DiskFull, StorageFailed):
            self._drop_context(context)
            raise
        if state is not State.ANSWERED:
            self._drop_context(context)
            return  # cancelled in the last moment
        self._unsaid.pop(entry.id, None)
        self._outbox.post(entry, reply)
        if context is not None and before is not None and before.context != context.name:
            self._files.drop_context(before.context)

    def _drop_context(self, context: Path | None) -> None:
        self._files.drop_context(context.name if context else None)

    def _post(self, entry: Entry) -> None:
        """Send a reply that the journal holds."""
        if entry.reply is None:
            # delivered long ago and forgotten; whoever asks again has lost it and must not wait
            self._outbox.post(entry, Reply(error=error_part(InstructionExpired(message=entry.id))))
        else:
            self._outbox.post(entry, Reply.unpack(entry.reply, peer="the journal"))


def _ref(part: BlobPart) -> BlobRef:
    return BlobRef(part.digest, part.size)


def _reply(result: WorkerResult, *, fetch_s: float, fetched: Sequence[TransferOutcome], instruction: int) -> Reply:
    """Return the reply to an instruction of so many bytes."""
    large = [outcome for outcome in fetched if outcome.ref.size >= LARGE]
    try:
        return Reply(
            flower=result.flower,
            blobs=[BlobPart(digest=ref.digest, size=ref.size) for ref in result.blobs],
            fetch_s=fetch_s,
            run_s=result.seconds,
            worker_peak_rss=result.peak_rss,
            bytes_down=instruction + sum(outcome.wire_bytes for outcome in fetched),
            via="+".join(sorted({way for outcome in large or fetched for way in outcome.via.split("+") if way})),
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise ReplyInvalid(why=f"{first['loc'][0] if first['loc'] else 'it'}: {first['msg']}") from None
