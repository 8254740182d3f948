"""One group's round over a Grid: `secagg.round.GroupRound`, whose messages this sends and whose replies it hands over.

It never waits: `go_on` does what can be done now, and `due` says when to look again at the latest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from argosy_common.clock import Clock
from argosy_common.errors import ArgosyError, SecureMessageMalformed
from argosy_common.flower.courier import Courier
from argosy_common.flower.secure import SECAGG, parcels
from argosy_common.flower.secure.asking import Question
from argosy_common.flower.secure.parcels import Stage
from argosy_common.logs import get_logger
from argosy_common.prg import Elements
from argosy_common.secagg.client import vector_length
from argosy_common.secagg.messages import Answer, Handover, SignedHeader, Vote
from argosy_common.secagg.parameters import Parameters
from argosy_common.secagg.round import GroupRound, GroupSum, State, all_of
from argosy_common.secure_ledger import Attempt, Ledger

log = get_logger(__name__)

ABORT_S = (5.0, 45.0)
"""How long holders may take to say that a failed round stays unsummed; only a later retry needs that. The second is for
grids that are asked every few seconds and start a process for each message, as Flower's own."""
PATIENCE_S = 0.25
"""The least time that holders beyond the U needed are waited for, so that wrong sums can be noticed and put right."""

Told = Callable[[int, str, ArgosyError], None]
"""Is told of a node, a stage and an error."""


class GroupSession:
    """See the module.

    Args:
        round_: the state machine.
        nodes: the roster's nodes, by index.
        uploads: the ids of the instructions that ask for message 2, with the index of whom they ask.
        message_1: as it was sent, signed.
        ledger: where sets and endings are written down.
        told: of refusals by holders.
        recovery_s: seconds for holders, from the moment that S is fixed.
        number: Flower's round.
        presumed: how many updates the attempt is taken to have had, where nobody is left who counted them.

    Attributes:
        sum: what it came to, once it is over and did not fail.
        error: why it failed.
        left_out: clients without a valid update, by index.
        traffic: bytes down and up of what holders were asked.
    """

    def __init__(
        self,
        round_: GroupRound,
        nodes: tuple[int, ...],
        uploads: Mapping[str, int],
        *,
        message_1: bytes,
        courier: Courier,
        clock: Clock,
        ledger: Ledger,
        told: Told,
        recovery_s: float,
        number: int | None,
        presumed: int = 0,
    ) -> None:
        self._presumed = presumed
        self.round = round_
        self.nodes = nodes
        self.sum: GroupSum | None = None
        self.error: ArgosyError | None = None
        self.left_out: dict[int, ArgosyError] = {}
        self.traffic = (0, 0)
        self._uploads = dict(uploads)
        self._message_1 = message_1
        self._courier = courier
        self._clock = clock
        self._ledger = ledger
        self._told = told
        self._recovery_s = recovery_s
        self._number = number
        self._boxes: dict[int, Mapping[str, Array]] = {}
        self._shared = ArrayRecord()
        self._handed_over = False
        self._certificate = b""
        self._aborts: dict[int, Vote] = {}
        self._question: Question | None = None
        self._asked_at = 0.0
        self._enough_at: float | None = None
        self._until = float("inf")

    @property
    def over(self) -> bool:
        """Whether nothing more is to be done."""
        return self.round.state in (State.RECOVERED, State.FAILED) and self._question is None

    @property
    def waiting(self) -> list[str]:
        """The ids of messages that are not answered yet."""
        if self.round.state is State.COLLECTING:
            return list(self._uploads)
        return self._question.waiting if self._question else []

    def due(self) -> float:
        """Return when to look again at the latest, on the monotonic clock."""
        if self._question is None:
            return float("inf")
        enough = float("inf") if self._enough_at is None else self._enough_at + self._patience
        return min(self._question.due(), enough)

    def go_on(self, *, late: bool) -> None:
        """Do what can be done now; `late` is whether no more updates are waited for."""
        if self.round.state is State.COLLECTING:
            self._take_updates(late=late)
        else:
            self._advance()

    def abandon(self, why: ArgosyError) -> None:
        """Give up an attempt that another process began: have holders say for good that no set will be summed."""
        self._uploads.clear()
        self._fail(why)

    # --- message 2

    def _take_updates(self, *, late: bool) -> None:
        """Take in the masked updates that are here; once there are no more to come, go on."""
        for reply in self._courier.take(list(self._uploads), self._accept_update):
            index = self._uploads.pop(reply.metadata.reply_to_message_id)
            if reply.has_error():
                self.left_out[index] = parcels.error_of(reply)
        if late or not self._uploads:
            self._close()

    def _accept_update(self, reply: Message) -> Message:
        content = parcels.accept(reply).content
        index = self._uploads[reply.metadata.reply_to_message_id]
        peer = self.round.device(index)
        signed = SignedHeader.parse(parcels.config(content, peer=peer).get("header"), peer=peer)
        length = vector_length(self.round.admission.announcement)
        boxes = content.array_records.get(parcels.UPDATE)
        if boxes is None or not {parcels.box_name(j) for j in range(len(self.nodes))} <= set(boxes):
            raise SecureMessageMalformed(peer=peer, why="boxes are missing")

        def y() -> Elements:
            return parcels.array(content, parcels.UPDATE, parcels.Y, peer=peer, most=length)

        self.round.take_update(signed, index, y)
        self._boxes[index] = boxes
        return reply

    def _close(self) -> None:
        """Wait for no more updates: fix S, write it down, ask for votes; or give up."""
        self._uploads.clear()
        try:
            handover = self.round.close()
            self._leave_out()
            self._handed_over = True
            self._write_down()
        except ArgosyError as error:
            self._fail(error)
            return
        self._until = self._clock.monotonic() + self._recovery_s
        self._share(handover)
        self._ask(Stage.VOTE, self._accept_vote)

    def _leave_out(self) -> None:
        """Tell of the clients whose names are not those of most."""
        for index, odd in self.round.odd.items():
            self.left_out[index] = odd
            self._told(self.nodes[index], Stage.UPDATE, odd)

    # --- messages 3 to 6

    def _advance(self) -> None:
        """Take in what holders said, and go on as far as that allows."""
        question = self._question
        if question is None:
            return
        refusals = question.advance()
        now = self._clock.monotonic()
        if self.round.state is State.FAILED:
            if question.settled or len(self._aborts) >= self._parameters.Q or now >= self._until:
                self._aborted()
            return
        for holder, error in refusals.items():
            self._told(self.nodes[holder], question.stage, error)
        enough = len(self.round.able if self.round.state is State.VOTING else self.round.answered) >= self._parameters.U
        if enough and self._enough_at is None:
            self._enough_at = now
        patient = self._enough_at is not None and now < self._enough_at + self._patience
        if (enough and not patient) or question.settled or now >= self._until:
            self._next_stage(enough=enough)

    def _next_stage(self, *, enough: bool) -> None:
        """End the question at hand and do what follows."""
        causes = self._end_question()
        try:
            if self.round.state is State.SUMMING:
                self.sum = self.round.recover(self._number, causes)  # raises where it is not enough
            elif enough:
                self._certificate = self.round.certify(self._number).packed
                self._write_down()
                self._ask(Stage.SUM, self._accept_sum)
            else:
                self._fail(self.round.give_up(self._number, causes))
        except ArgosyError as error:
            self._fail(error)

    def _fail(self, error: ArgosyError) -> None:
        """Give the round up; where no set is certified, let holders say for good that none will be."""
        self.error = error
        if self.round.state is not State.FAILED:
            self.round.fail()
        if self.round.certified is None:
            self._until = self._clock.monotonic() + ABORT_S[0 if self._courier.prompt else 1]
            self._share(Handover(sid=self.round.admission.sid, headers=()))
            self._ask(Stage.ABORT, self._accept_abort)

    def _aborted(self) -> None:
        """Write down that the round was given up, if enough holders say so."""
        self._end_question()
        if len(self._aborts) >= self._parameters.Q:
            self._certificate = all_of(list(self._aborts.values())).packed
            try:
                self._write_down()
            except ArgosyError as error:  # a retry will be refused then, which is safe
                log.error("secure.abort_not_written", code=error.code, why=error.message)

    # --- asking

    def _share(self, handover: Handover) -> None:
        """Settle what goes to every holder alike, from now on."""
        self._shared = parcels.bytes_record(message_1=self._message_1, handover=handover.packed)

    def _ask(self, stage: str, accept: Callable[[int, RecordDict], None]) -> None:
        self._enough_at = None
        self._asked_at = self._clock.monotonic()
        self._question = Question(
            stage,
            self.nodes,
            lambda holder: self._request(stage, holder),
            accept,
            self._until,
            self._number,
            self._courier,
            self._clock,
        )
        self._question.begin()

    def _request(self, stage: str, holder: int) -> RecordDict:
        own = ConfigRecord({"stage": stage})
        if stage == Stage.SUM:
            own["certificate"] = self._certificate
        content = RecordDict({SECAGG: own, parcels.ROUND: self._shared})
        if stage != Stage.ABORT:
            name = parcels.box_name(holder)
            boxes = {parcels.box_name(i): self._boxes[i][name] for i in self.round.clients}
            content[parcels.BOXES] = ArrayRecord(boxes, keep_input=True)
        return content

    def _end_question(self) -> dict[str, str]:
        """End the question at hand; return why each holder that did not answer did not, by device."""
        question, self._question = self._question, None
        if question is None:
            return {}
        down, up = question.end()
        self.traffic = (self.traffic[0] + down, self.traffic[1] + up)
        silent = "it did not answer in time"
        return {self.round.device(j): error.message if error else silent for j, error in question.causes().items()}

    def _accept_vote(self, holder: int, content: RecordDict) -> None:
        self.round.take_vote(self._vote(holder, content), holder)

    def _accept_abort(self, holder: int, content: RecordDict) -> None:
        vote = self._vote(holder, content)
        self.round.check_abort(vote, holder)
        self._aborts[holder] = vote

    def _vote(self, holder: int, content: RecordDict) -> Vote:
        peer = self.round.device(holder)
        return Vote.parse(parcels.config(content, peer=peer).get("vote"), peer=peer)

    def _accept_sum(self, holder: int, content: RecordDict) -> None:
        peer = self.round.device(holder)
        answer = Answer.parse(parcels.config(content, peer=peer).get("answer"), peer=peer)
        most = self._parameters.L(vector_length(self.round.admission.announcement))
        total = parcels.array(content, parcels.TOTAL, parcels.SUMMED, peer=peer, most=most)
        self.round.take_answer(answer, total, holder)

    # --- inside

    @property
    def _parameters(self) -> Parameters:
        return self.round.admission.parameters

    @property
    def _patience(self) -> float:
        """How long holders beyond the U needed are waited for: as long again as those took."""
        return max(PATIENCE_S, (self._enough_at or 0.0) - self._asked_at)

    def _write_down(self) -> None:
        """Write the set, and once there is one its certificate, to the ledger.

        Raises:
            StorageFailed, DiskFull: it could not be written; nothing may be sent that relies on it.
        """
        admission, found = self.round.admission, self.round.certified
        fixed = admission.announcement.fixed
        attempt = Attempt(
            sid=admission.sid,
            attempt=admission.announcement.attempt,
            at=int(self._clock.wall().timestamp()),
            members=admission.fingerprints,
            updates=len(self.round.clients) or self._presumed,
            root=self.round.root if self._handed_over else b"",
            certificate=self._certificate,
            released=fixed if found is None else tuple(admission.fingerprints[i] for i in found.members),
        )
        self._ledger.write(admission.announcement.instruction, attempt)
