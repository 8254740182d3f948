"""The coordinator's stage of one group, as an explicit state machine (specs/secure-aggregation.md, 6).

    collecting ─ close → voting ─ certify → summing ─ recover → recovered
         └────────────┴──── abort ────────────┴────→ failed

Pure: it is handed what devices sent and says what it makes of it. It trusts no device: what does not hold is refused
by name and left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np

from argosy_common.codec.base import Vector
from argosy_common.codec.ring import Ring, RingSum
from argosy_common.errors import (
    ProgrammingError,
    ReplyInvalid,
    SecureMessageMalformed,
    SecureSignatureInvalid,
    SecureTooFewDevices,
    SumInconsistent,
    SumUnrecoverable,
)
from argosy_common.field import Field
from argosy_common.prg import Elements
from argosy_common.secagg.admission import Admission
from argosy_common.secagg.certificate import ABORT, Certified, merkle_root, outcome
from argosy_common.secagg.client import code_count, digest_of, limbs_of, ring_round, vector_length
from argosy_common.secagg.decoding import recover
from argosy_common.secagg.holder import check_header, form_of
from argosy_common.secagg.limbs import Tally
from argosy_common.secagg.messages import Answer, Certificate, Handover, Header, SignedHeader, Vote


class State(StrEnum):
    """Where a group's round stands."""

    COLLECTING = "collecting"
    """Masked updates come in."""
    VOTING = "voting"
    """S is written down; holders check their boxes and vote."""
    SUMMING = "summing"
    """S is certified; holders add up their shares."""
    RECOVERED = "recovered"
    """The sum is unmasked."""
    FAILED = "failed"
    """It was given up; nothing is revealed."""


class Event(StrEnum):
    """What happens to a group's round."""

    CLOSE = "close"
    """No more updates are waited for, and there are enough."""
    CERTIFY = "certify"
    """Enough holders voted for S."""
    RECOVER = "recover"
    """Enough holders answered."""
    FAIL = "fail"
    """Too few, or they contradict one another."""


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.COLLECTING, Event.CLOSE): State.VOTING,
    (State.COLLECTING, Event.FAIL): State.FAILED,
    (State.VOTING, Event.CERTIFY): State.SUMMING,
    (State.VOTING, Event.FAIL): State.FAILED,
    (State.SUMMING, Event.RECOVER): State.RECOVERED,
    (State.SUMMING, Event.FAIL): State.FAILED,
}


def after(state: State, event: Event) -> State:
    """Return the state that `event` leads to from `state`.

    Raises:
        ProgrammingError: the event cannot happen there; the state stays as it is.
    """
    try:
        return TRANSITIONS[(state, event)]
    except KeyError:
        raise ProgrammingError(what=f"a secure round that is {state} met the event '{event}'") from None


@dataclass(frozen=True)
class GroupSum:
    """What a group's round comes to.

    Attributes:
        mean: shape (d,), float32: the weighted mean of the updates.
        tally: weights and metrics.
        form: the names that its clients gave.
        members: the clients in it, by index.
        dropped: clients left out for malformed shares.
        checked: whether more holders answered than were needed, so that a wrong sum would have been noticed.
        wrong: holders whose answers were wrong, or whose share of some client was; by index.
        ring: what the codec saw: spreads, and blocks that wrapped.
    """

    mean: Vector
    tally: Tally
    form: Header
    members: tuple[int, ...]
    dropped: tuple[int, ...]
    checked: bool
    wrong: tuple[int, ...]
    ring: RingSum


class GroupRound:
    """One group's round, from its first masked update to its sum."""

    def __init__(self, admission: Admission, rng: np.random.Generator) -> None:
        """Begin. `admission` is the coordinator's own reading of message 1; its index means nothing here."""
        self.admission = admission
        self.state = State.COLLECTING
        self.certified: Certified | None = None
        self.odd: dict[int, ReplyInvalid] = {}
        """Clients that were left out when S was fixed, since their names are not those of most."""
        self._rng = rng
        self._headers: dict[int, tuple[Header, SignedHeader]] = {}
        self._ys: dict[int, Callable[[], Elements]] = {}
        self._votes: dict[int, Vote] = {}
        self._answers: dict[int, Elements] = {}

    # --- message 2

    def take_update(self, signed: SignedHeader, client: int, y: Callable[[], Elements]) -> Header:
        """Take a client's masked update in; `y` reads it, now and when it is summed.

        Raises:
            SecureMessageMalformed, SecureSignatureInvalid: it is not that client's update of this round.
        """
        self._require(State.COLLECTING)
        peer = self.device(client)
        header = Header.parse(signed.header, peer=peer)
        check_header(self.admission, header)
        if header.client != client:
            raise SecureMessageMalformed(peer=peer, why=f"it is the update of client {header.client}")
        if not signed.holds(self.admission.identities[client], self.admission.sid):
            raise SecureSignatureInvalid(peer=peer, what="its masked update")
        self._check_elements(y(), vector_length(self.admission.announcement), header.y, peer)
        self._headers[client] = (header, signed)
        self._ys[client] = y
        return header

    @property
    def clients(self) -> tuple[int, ...]:
        """S, as it stands: the clients whose updates are here."""
        return tuple(sorted(self._headers))

    def close(self) -> Handover:
        """Fix S and return message 3, which the caller writes down before it sends it.

        S is of the updates whose names most of them have; the others are in `odd` from then on.

        Raises:
            SecureTooFewDevices: fewer updates than may be summed.
        """
        forms = {i: form_of(header) for i, (header, _) in self._headers.items()}
        most = Counter(forms.values()).most_common(1)
        for i in [i for i, form in forms.items() if form != most[0][0]]:
            del self._headers[i], self._ys[i]
            self.odd[i] = ReplyInvalid(why="its records or metrics have other names than those of most devices")
        least = self.admission.announcement.n_min
        if len(self._headers) < least:
            self.fail()
            raise SecureTooFewDevices(needed=least, what="updates in a sum", found=len(self._headers))
        self.state = after(self.state, Event.CLOSE)
        return Handover(sid=self.admission.sid, headers=tuple(self._headers[i][1] for i in self.clients))

    # --- message 4

    @cached_property
    def root(self) -> bytes:
        """The root of S, which is fixed by then."""
        return merkle_root({i: header.digest for i, (header, _) in self._headers.items()})

    def take_vote(self, vote: Vote, holder: int) -> None:
        """Take a holder's vote for S in.

        Raises:
            SecureMessageMalformed: a vote of another round, holder or set.
            SecureSignatureInvalid: not signed by that holder.
        """
        self._require(State.VOTING)
        self._check_vote(vote, holder, self.root, self.clients)
        self._votes[holder] = vote

    def check_abort(self, vote: Vote, holder: int) -> None:
        """Check a vote for ABORT; see `take_vote`."""
        self._check_vote(vote, holder, ABORT, ())

    def _check_vote(self, vote: Vote, holder: int, root: bytes, members: tuple[int, ...]) -> None:
        peer = self.device(holder)
        if (vote.sid, vote.holder, vote.root, vote.members) != (self.admission.sid, holder, root, members):
            raise SecureMessageMalformed(peer=peer, why="its vote is not one for this set")
        if not set(vote.complaints) <= set(members):
            raise SecureMessageMalformed(peer=peer, why="it complains of a client that is not in the set")
        if not vote.holds(self.admission.identities[holder]):
            raise SecureSignatureInvalid(peer=peer, what="its vote")

    @property
    def voters(self) -> tuple[int, ...]:
        """The holders that voted."""
        return tuple(sorted(self._votes))

    @property
    def able(self) -> tuple[int, ...]:
        """The voters that could answer, were the votes as they are now: they hold a sound share of every member."""
        if not self._votes:
            return ()
        members = set(outcome(self.admission.parameters, list(self._votes.values())).members)
        return tuple(j for j in self.voters if not members & set(self._votes[j].complaints))

    @property
    def complaints(self) -> dict[int, tuple[int, ...]]:
        """For each client that is complained of, the holders that do."""
        of: dict[int, list[int]] = {}
        for j in self.voters:
            for i in self._votes[j].complaints:
                of.setdefault(i, []).append(j)
        return {i: tuple(holders) for i, holders in sorted(of.items())}

    def certify(self, round_: object) -> Certificate:
        """Return message 5.

        Raises:
            SumUnrecoverable, SecureTooFewDevices: as `give_up` would.
        """
        parameters = self.admission.parameters
        if len(self._votes) < parameters.Q:
            raise self._failed("voted", len(self._votes), parameters.Q, {}, round_)
        found = outcome(parameters, list(self._votes.values()))
        least = self.admission.announcement.n_min
        if len(found.members) < least:
            self.fail()
            raise SecureTooFewDevices(needed=least, what="updates with sound shares", found=len(found.members))
        self.certified = found
        self.state = after(self.state, Event.CERTIFY)
        # without complaints any Q votes say the same as all, and are less to check
        voters = self.voters if self.complaints else self.voters[: parameters.Q]
        return Certificate(votes=tuple(self._votes[j] for j in voters))

    # --- message 6

    def take_answer(self, answer: Answer, total: Elements, holder: int) -> None:
        """Take a holder's sum of shares in.

        Raises:
            SecureMessageMalformed: another holder's, round's or set's, or not elements.
            SecureSignatureInvalid: not signed by that holder.
        """
        self._require(State.SUMMING)
        peer = self.device(holder)
        members = self.certified.members if self.certified else ()
        if (answer.sid, answer.holder, answer.members) != (self.admission.sid, holder, members):
            raise SecureMessageMalformed(peer=peer, why="its sum is not one of the certified set")
        if not answer.holds(self.admission.identities[holder]):
            raise SecureSignatureInvalid(peer=peer, what="its sum of shares")
        length = self.admission.parameters.L(vector_length(self.admission.announcement))
        self._check_elements(total, length, answer.total, peer)
        self._answers[holder] = total

    @property
    def answered(self) -> tuple[int, ...]:
        """The holders that answered."""
        return tuple(sorted(self._answers))

    def recover(self, round_: object, causes: Mapping[str, str]) -> GroupSum:
        """Take the mask off.

        Args:
            round_: for the errors.
            causes: why those holders that did not answer did not.

        Raises:
            SumUnrecoverable: fewer than U holders answered.
            SumInconsistent: their answers contradict one another, or the sum is none of honest clients.
        """
        announcement, parameters = self.admission.announcement, self.admission.parameters
        members = self.certified.members if self.certified else ()
        if len(self._answers) < parameters.U:
            raise self._failed("answered", len(self._answers), parameters.U, causes, round_)
        size, field = vector_length(announcement), Field(parameters.p)
        try:
            unmasked = recover(parameters, self._answers, size, self._rng)
            total = field.subtract(field.total(self._ys[i]() for i in members), unmasked.total)
            codes = code_count(announcement)
            tally = limbs_of(announcement).decode(total[codes:], len(members), announcement.w_cap)
            ring = Ring(parameters.p).decode_sum(total[:codes], ring_round(announcement), members)
        except ValueError as error:
            self.fail()
            raise SumInconsistent(round=round_, found=len(self._answers), why=error) from None
        self.state = after(self.state, Event.RECOVER)
        mean = ring.mean
        mean *= np.float32(len(members) * announcement.w_cap / tally.weight)
        form, _ = self._headers[members[0]]
        dropped = self.certified.dropped if self.certified else ()
        return GroupSum(mean, tally, form, members, dropped, unmasked.checked, unmasked.wrong, ring)

    # --- inside

    def fail(self) -> None:
        """Give the round up."""
        self.state = after(self.state, Event.FAIL)

    def give_up(self, round_: object, causes: Mapping[str, str]) -> SumUnrecoverable:
        """Give the round up for want of votes; return the error that says so."""
        return self._failed("voted", len(self.able), self.admission.parameters.U, causes, round_)

    def device(self, index: int) -> str:
        """Return the id of a member of the roster."""
        return self.admission.fingerprints[index].hex()[:16]

    def _failed(self, did: str, found: int, needed: int, causes: Mapping[str, str], round_: object) -> SumUnrecoverable:
        self.fail()
        told = "; ".join(f"{device}: {why.rstrip('.')}" for device, why in sorted(causes.items())[:5])
        return SumUnrecoverable(
            round=round_, found=found, needed=needed, did=did, causes=told or "the others were silent"
        )

    def _require(self, state: State) -> None:
        if self.state is not state:
            raise ProgrammingError(what=f"a secure round that is {self.state} was handed a message of {state}")

    def _check_elements(self, elements: Elements, length: int, digest: bytes, peer: str) -> None:
        field = Field(self.admission.parameters.p)
        if elements.shape != (length,) or elements.dtype != field.dtype:
            raise SecureMessageMalformed(peer=peer, why=f"it has not {length} elements of {field.dtype}")
        if elements.size and int(elements.max()) >= field.p:
            raise SecureMessageMalformed(peer=peer, why=f"an element is not below {field.p}")
        if digest_of(elements) != digest:
            raise SecureMessageMalformed(peer=peer, why="its elements are not those that it signed")


def all_of(votes: Sequence[Vote]) -> Certificate:
    """Return votes for ABORT as a certificate."""
    return Certificate(votes=tuple(sorted(votes, key=lambda vote: vote.holder)))
