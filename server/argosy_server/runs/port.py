"""The run process's end of the channel to the daemon: what it may ask, and what comes back.

Messages to the daemon: `nodes`, `conditions`, `push`, `give-up`, `release`, `event`, `model`, `resumable`,
`checkpoint`, `resumed`, `finished`. From it: `nodes`, `conditions`, `answer`, `late`, `stop`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from argosy_common.clock import Clock
from argosy_common.errors import ArgosyError, ProgrammingError, error_from_wire
from argosy_common.ipc import Channel
from argosy_common.logs import get_logger
from argosy_common.straggler.conditions import Condition
from argosy_server.runs.conditions import read_conditions

log = get_logger(__name__)

_ANSWER_TIME_S = 30.0


class RunStopped(BaseException):
    """The operator stopped the run. Not an `Exception`, so that no app's `except` keeps it from ending."""


@dataclass(frozen=True)
class PushedMessage:
    """One instruction as the daemon gets it."""

    id: str
    node_id: int
    round: int | None
    message_type: str
    flower: bytes
    blobs: tuple[tuple[bytes, int], ...]
    deadline_s: float


@dataclass(frozen=True)
class NodeAnswer:
    """What came of one instruction."""

    id: str
    device: str
    flower: bytes
    error: ArgosyError | None
    facts: dict[str, Any]
    """`fetch_s`, `run_s`, `upload_s`, `bytes_down`, `bytes_up`, `peak_rss`: numbers; `via`: a text, see `Reply.via`."""
    at: float = 0.0
    """When it arrived, on the monotonic clock."""


class DaemonPort:
    """Requests to the daemon and its answers. `start` before use; `wait_for` from one thread at a time.

    `gone` is called, on a thread of the port's own, when the daemon has closed the channel or died.
    """

    def __init__(self, channel: Channel, *, clock: Clock, gone: Callable[[], None]) -> None:
        self._channel = channel
        self._gone = gone
        self._clock = clock
        self._answers: dict[str, NodeAnswer] = {}
        self._late: list[NodeAnswer] = []
        self._given_up: set[str] = set()
        """Each of them is still answered, once, for nobody."""
        self._changed = threading.Condition()
        self._nodes: queue.Queue[list[int]] = queue.Queue()
        self._conditions: queue.Queue[dict[int, Condition]] = queue.Queue()
        self._stopped = ""

    def start(self) -> None:
        """Begin to listen."""
        threading.Thread(target=self._listen, name="daemon-port", daemon=True).start()

    def nodes(self) -> list[int]:
        """Return the node ids that are online now."""
        self._check()
        self._channel.send({"op": "nodes"})
        try:
            return self._nodes.get(timeout=_ANSWER_TIME_S)
        except queue.Empty:
            self._check()
            raise ProgrammingError(what="the coordinator did not list its devices in time") from None

    def conditions(self) -> dict[int, Condition]:
        """Return what the devices that are online now last said of themselves, by node id."""
        self._check()
        self._channel.send({"op": "conditions"})
        try:
            return self._conditions.get(timeout=_ANSWER_TIME_S)
        except queue.Empty:
            self._check()
            raise ProgrammingError(what="the coordinator did not tell how its devices are in time") from None

    def push(self, messages: list[PushedMessage], nodes: Collection[int] = ()) -> None:
        """Hand instructions over; they are in the daemon's database soon after, `nodes` (who was online) with them."""
        self._check()
        # a frame holds a bounded number of messages, so that a large fleet cannot outgrow it
        for first in range(0, len(messages), 256):
            part = [vars(message) for message in messages[first : first + 256]]
            self._channel.send({"op": "push", "messages": part, "nodes": list(nodes)})

    def resumed(self, ids: Collection[str]) -> None:
        """Say that what an interrupted phase asks for is asked for again: `ids`. What else is open is not wanted."""
        self._channel.send({"op": "resumed", "ids": list(ids)})

    def resumable(self, *, can: bool) -> None:
        """Say whether this run can be gone on with from its checkpoints."""
        self._channel.send({"op": "resumable", "can": can})

    def checkpoint(self, phase: tuple[int, str], record: tuple[bytes, int], arrays: tuple[bytes, int] | None) -> None:
        """Say that a phase is done: the blobs of the strategy's record, and of the global arrays if they are new."""
        self._channel.send({"op": "checkpoint", "phase": phase, "record": record, "arrays": arrays})

    def give_up(self, ids: Collection[str], seconds: float) -> None:
        """Say that these are no longer waited for."""
        with self._changed:
            self._given_up.update(each for each in ids if self._answers.pop(each, None) is None)
        self._channel.send({"op": "give-up", "ids": list(ids), "seconds": seconds})

    def release(self, digests: Collection[bytes]) -> None:
        """Say that these blobs are no longer needed by this process."""
        self._channel.send({"op": "release", "digests": list(digests)})

    def event(self, name: str, **data: object) -> None:
        """Record an event of the run."""
        self._channel.send({"op": "event", "name": name, "data": data})

    def update(self, **fields: object) -> None:
        """Set fields of the run's row: `strategy`, `rounds`."""
        self._channel.send({"op": "update", "fields": fields})

    def model(self, name: str, draft: dict[str, Any]) -> None:
        """Hand over a model that was exported; its blobs are in the store."""
        self._channel.send({"op": "model", "name": name, "draft": draft})

    @property
    def stopped(self) -> bool:
        """Whether the operator, or the daemon's end, stopped the run."""
        return bool(self._stopped)

    def finished(self, error: ArgosyError | None, *, stopped: bool, final_model: bytes | None) -> None:
        """Say how the run ended; the last message of this process."""
        wire = error.to_wire() if error else None
        self._channel.send({"op": "finished", "error": wire, "stopped": stopped, "final_model": final_model})

    def take(self, ids: Collection[str]) -> list[NodeAnswer]:
        """Return and forget the answers to `ids` that are here."""
        with self._changed:
            return [self._answers.pop(each) for each in ids if each in self._answers]

    def late(self) -> list[NodeAnswer]:
        """Return and forget the answers, without their content, that came when nobody waited for them any more."""
        with self._changed:
            found, self._late = self._late, []
            return found

    def wait_for(self, ids: Collection[str], deadline: float) -> bool:
        """Wait until any of `ids` is answered; False when the monotonic `deadline` has passed.

        Raises:
            RunStopped: the operator, or the daemon's end, stopped the run.
        """
        with self._changed:
            while not any(each in self._answers for each in ids):
                self._check()
                left = deadline - self._clock.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(min(left, 3600.0))
            return True

    def _check(self) -> None:
        if self._stopped:
            raise RunStopped(self._stopped)

    def _listen(self) -> None:
        try:
            while (message := self._channel.receive()) is not None:
                if message["op"] == "stop":
                    self._stop("stopped by the operator")
                else:
                    self._take_in(message)
        except Exception as error:  # noqa: BLE001  (told to the main thread, which ends the run)
            log.error("run.channel_failed", exc=error)
        self._stop("the coordinator is gone")
        self._gone()

    def _stop(self, why: str) -> None:
        with self._changed:
            self._stopped = self._stopped or why
            self._changed.notify_all()

    def _take_in(self, message: dict[str, Any]) -> None:
        if message["op"] == "nodes":
            self._nodes.put([int(node) for node in message["ids"]])
            return
        if message["op"] == "conditions":
            self._conditions.put(read_conditions(message["of"]))
            return
        error = error_from_wire(message["error"]) if message["error"] else None
        at = self._clock.monotonic()
        answer = NodeAnswer(message["id"], message["device"], message["flower"], error, message["facts"], at)
        with self._changed:
            if message["op"] == "late":
                self._late.append(answer)
                return
            if answer.id in self._given_up:
                self._given_up.remove(answer.id)
                if answer.facts:  # the device's own answer, which crossed our giving up
                    self._late.append(answer)
                return
            self._answers[answer.id] = answer
            self._changed.notify_all()
