"""The rules of section 3, one by one over all histories of a small world, then all together by a model check."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations_with_replacement, product
from pathlib import Path

import pytest

from argosy_common.errors import ArgosyError, SecondUpdateRefused, SecureRetryRefused, SecureSetRefused
from argosy_common.flower.secure.journal import Release, SecureJournal
from argosy_common.flower.secure.mod import _unsummed
from argosy_common.secagg.binding import (
    Cast,
    Ending,
    Sent,
    earlier,
    may_release,
    may_retry,
    may_send,
    may_sum,
    may_vote,
)
from argosy_common.secagg.certificate import ABORT, Certified
from argosy_common.secagg.messages import Announcement, Prior, Vote

RUNS, ROUNDS, INSTRUCTIONS = (b"a" * 16, b"b" * 16), (1, 2, 3), (b"i" * 32, b"j" * 32)
PRINTS = tuple(bytes([number]) * 32 for number in range(4))
KEY = bytes(91)


def announcement(
    run: bytes = RUNS[0], round_: int = 1, instruction: bytes = INSTRUCTIONS[0], seed: int = 0, **more: object
) -> Announcement:
    """A message 1 of which only what the rules look at matters."""
    roster = ({"identity": KEY, "key": bytes(32), "signature": bytes(8)},)
    fields: dict[str, object] = {
        "coordinator": KEY, "run": run, "round": round_, "suite": "chacha20", "p": 251, "A": 4, "U": 3, "T": 1,
        "n_min": 3, "size": 0, "weighting": "equal", "w_cap": 1, "slots": 0, "seed": bytes([seed]) * 32, "scales": b"",
        "fleet_version": 0, "deadline_s": 1.0, "instruction": instruction, "roster": roster,
    }  # fmt: skip
    return Announcement.model_validate({**fields, **more})


def sent(it: Announcement) -> Sent:
    """What the journal keeps of a message 2."""
    return Sent(it.sid, it.run, it.round, it.attempt, it.instruction)


@pytest.mark.parametrize(("run", "round_", "instruction"), list(product(RUNS, ROUNDS, INSTRUCTIONS)))
def test_rule_1_rounds_of_a_run_strictly_increase(run: bytes, round_: int, instruction: bytes) -> None:
    """Whatever the instruction, the group or anything else in message 1."""
    before = announcement(run, round_, instruction)
    for other_run, other_round, other in product(RUNS, ROUNDS, INSTRUCTIONS):
        now = announcement(other_run, other_round, other, seed=1)
        if other_run == run and other_round <= round_:
            with pytest.raises(SecondUpdateRefused):
                may_send([sent(before)], now)
        else:
            may_send([sent(before)], now)
    with pytest.raises(SecondUpdateRefused):
        may_send([sent(before)], before)  # its bytes would be sent again, were they there
    may_send([], before)


@pytest.mark.parametrize("attempts", list(product((0, 1), repeat=2)))
@pytest.mark.parametrize("groups", [(0, 0), (0, 1)])
def test_rule_1_looks_at_run_and_round_only(attempts: tuple[int, int], groups: tuple[int, int]) -> None:
    """Over all histories of two updates and all messages 1 of the small world."""
    world = list(product(RUNS, ROUNDS, INSTRUCTIONS))
    asked = {each: announcement(*each, seed=1, attempt=attempts[1], group=groups[1]) for each in world}
    done = {each: sent(announcement(*each, attempt=attempts[0], group=groups[0])) for each in world}
    for history in combinations_with_replacement(world, 2):
        for (run, round_, instruction), now in asked.items():
            free = all(run != other or round_ > its for other, its, _ in history)
            try:
                may_send([done[each] for each in history], now)
            except SecondUpdateRefused:
                assert not free
            else:
                assert free, (history, run, round_, instruction)


def test_rule_1_looks_at_the_whole_history() -> None:
    """An early round does not hide a later one."""
    history = [sent(announcement(round_=3)), sent(announcement(round_=1)), sent(announcement(RUNS[1], 1))]
    with pytest.raises(SecondUpdateRefused):
        may_send(history, announcement(round_=2, seed=1))
    may_send(history, announcement(RUNS[1], 2))


def test_the_last_attempt_at_an_instruction_counts_in_whatever_run_it_was() -> None:
    """Another instruction's history does not."""
    one, two = announcement(seed=1), announcement(RUNS[1], 2, seed=2)
    other = announcement(RUNS[1], 3, INSTRUCTIONS[1])
    now = announcement(round_=3, seed=3)
    history = [sent(one), sent(two), sent(other)]
    assert earlier(history, now) == sent(two)
    assert earlier(history, two) == sent(one), "an attempt is not its own predecessor"
    assert earlier([sent(other)], now) is None


@pytest.mark.parametrize("ending", Ending)
@pytest.mark.parametrize("fixed", [(), PRINTS, PRINTS[:3], (*PRINTS[:3], b"x" * 32)], ids=len)
@pytest.mark.parametrize("prior", ["none", "another", "right"])
def test_rule_2_a_retry_needs_the_right_proof_and_after_a_set_that_set(
    ending: Ending, fixed: tuple[bytes, ...], prior: str
) -> None:
    """All combinations; the released set is PRINTS."""
    before = announcement()
    told = {"none": None, "another": Prior(sid=b"o" * 32), "right": Prior(sid=before.sid)}[prior]
    now = announcement(round_=2, seed=1, attempt=1, fixed=fixed, prior=told)
    may_retry(None, now, ending, PRINTS)
    allowed = prior == "right" and (
        ending is Ending.ABORTED or (ending is Ending.RELEASED and set(fixed) == set(PRINTS))
    )
    if allowed:
        may_retry(sent(before), now, ending, PRINTS)
    else:
        with pytest.raises(SecureRetryRefused):
            may_retry(sent(before), now, ending, PRINTS)


ROOTS = (ABORT, b"r" * 32, b"s" * 32)


@pytest.mark.parametrize(("cast", "asked"), list(product((None, *ROOTS), ROOTS)))
def test_rule_3_one_vote_a_sid(cast: bytes | None, asked: bytes) -> None:
    """The same again, or nothing."""
    if cast is None or cast == asked:
        may_vote(None if cast is None else Cast(cast), asked)
    else:
        with pytest.raises(SecureSetRefused):
            may_vote(Cast(cast), asked)


@pytest.mark.parametrize("size", range(5))
@pytest.mark.parametrize("fixed", [(), PRINTS, PRINTS[:3]], ids=len)
def test_rule_4_no_tiny_set_and_no_other_than_the_fixed_one(size: int, fixed: tuple[bytes, ...]) -> None:
    """Three of four at least; doubled members count once."""
    now = announcement(fixed=fixed)
    members = list(range(size))
    if size >= 3 and (not fixed or {PRINTS[i] for i in members} == set(fixed)):
        may_sum(now, members, PRINTS)
    else:
        with pytest.raises(SecureSetRefused):
            may_sum(now, members, PRINTS)
    with pytest.raises(SecureSetRefused):
        may_sum(now, [0, 1, 1, 1], PRINTS)


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("cast", [None, *(Cast(root, done) for root in ROOTS for done in ((), (0, 1, 2), (0, 1, 3)))])
def test_rule_5_shares_are_added_for_one_certified_set(root: bytes, cast: Cast | None) -> None:
    """Of the root that was voted for, if any, and the same members as before, if any."""
    found = Certified(root, () if root == ABORT else (0, 1, 2))
    sound = root != ABORT and (cast is None or (cast.root == root and cast.released in {(), (0, 1, 2)}))
    if sound:
        may_release(cast, found)
    else:
        with pytest.raises(SecureSetRefused):
            may_release(cast, found)


# --- all rules together -----------------------------------------------------------------------------------------------


@dataclass
class Board:
    """A device that keeps the rules and a journal, and what it ever did."""

    cast: dict[bytes, Cast] = field(default_factory=dict)
    sent: list[Sent] = field(default_factory=list)
    votes: set[tuple[bytes, bytes]] = field(default_factory=set)
    sums: set[tuple[bytes, tuple[int, ...]]] = field(default_factory=set)
    updates: list[tuple[bytes, int]] = field(default_factory=list)

    def ask(self, what: str, it: Announcement) -> None:
        """Do what a step asks, if the rules allow."""
        sid, cast = it.sid, self.cast.get(it.sid)
        wanted = {"vote S": ROOTS[1], "vote T": ROOTS[2], "abort": ABORT}
        sets = {"sum S": Certified(ROOTS[1], (0, 1, 2)), "sum S−": Certified(ROOTS[1], (0, 1, 3), (2,)),
                "sum T": Certified(ROOTS[2], (0, 1))}  # fmt: skip
        if what == "send":
            may_send(self.sent, it)
            may_retry(earlier(self.sent, it), it, Ending.UNKNOWN, ())
            self.sent.append(sent(it))
            self.updates.append((it.run, it.round))
        elif what in wanted:
            may_vote(cast, wanted[what])
            self.cast[sid] = cast or Cast(wanted[what])
            self.votes.add((sid, wanted[what]))
        else:
            found = sets[what]
            may_release(cast, found)
            may_sum(it, found.members, PRINTS)
            self.cast[sid] = Cast(found.root, found.members)
            self.votes.add((sid, found.root))
            self.sums.add((sid, found.members))


STEPS = ("send", "vote S", "vote T", "abort", "sum S", "sum S−", "sum T")


def test_no_order_of_messages_makes_a_device_vote_sum_or_send_twice() -> None:
    """Every sequence of four steps over two rounds: the journal is all that a restart leaves, and all that is used."""
    rounds = (announcement(seed=1), announcement(round_=2, instruction=INSTRUCTIONS[1], seed=2))
    for steps in product(product(STEPS, rounds), repeat=4):
        board = Board()
        for what, it in steps:
            try:
                board.ask(what, it)
            except ArgosyError:
                continue
        for it in rounds:
            assert len({root for sid, root in board.votes if sid == it.sid}) <= 1
            assert len({members for sid, members in board.sums if sid == it.sid}) <= 1
            aborted = (it.sid, ABORT) in board.votes
            assert not (aborted and any(sid == it.sid for sid, _ in board.sums))
        assert len(board.updates) == len(set(board.updates))
        assert all(len(members) >= 3 for _, members in board.sums)


def test_in_no_order_of_messages_1_does_a_device_send_twice_in_a_round_or_for_an_instruction() -> None:
    """Every sequence of four, out of two groups' messages 1 for each run, round and instruction; without any proof."""
    asked = [
        announcement(run, round_, instruction, group=group)
        for run, round_, instruction, group in product(RUNS, (1, 2), (*INSTRUCTIONS, b"k" * 32), (0, 1))
    ]
    histories: list[list[Sent]] = [[]]
    for _ in range(4):
        longer = []
        for history, it in product(histories, asked):
            try:
                may_send(history, it)
                may_retry(earlier(history, it), it, Ending.UNKNOWN, ())
            except (SecondUpdateRefused, SecureRetryRefused):
                continue
            longer.append([*history, sent(it)])
        for history in longer:
            assert len({(each.run, each.round) for each in history}) == len(history)
            assert len({each.instruction for each in history}) == len(history)
            for run in RUNS:
                rounds = [each.round for each in history if each.run == run]
                assert rounds == sorted(rounds)
        histories = longer or histories
    assert max(map(len, histories)) == 3, "as many as there are instructions"


# --- rule by rule over a real journal ---------------------------------------------------------------------------------


def holder_does(folder: Path, what: str, it: Announcement) -> None:
    """Do what a step asks, as `HolderService` does it, with a journal that is opened and closed for it."""
    journal = SecureJournal(folder)
    try:
        cast = journal.cast(it.sid)
        if what in VOTES:
            may_vote(cast, VOTES[what][0])
            if cast is None:
                journal.write_vote(Vote(sid=it.sid, holder=0, root=VOTES[what][0], members=VOTES[what][1]))
            return
        may_release(cast, SETS[what])
        may_sum(it, SETS[what].members, PRINTS)
        if journal.release(it.sid) is None:
            if cast is None:
                (root, members), *_ = [vote for vote in VOTES.values() if vote[0] == SETS[what].root]
                journal.write_vote(Vote(sid=it.sid, holder=0, root=root, members=members))
            journal.write_release(it.sid, Release(SETS[what].members, what.encode(), b"total"), b"a prekey")
    finally:
        journal.close()


VOTES: dict[str, tuple[bytes, tuple[int, ...]]] = {
    "vote S": (ROOTS[1], (0, 1, 2, 3)),
    "vote T": (ROOTS[2], (0, 1, 2)),
    "abort": (ABORT, ()),
}
SETS = {
    "sum S": Certified(ROOTS[1], (0, 1, 2, 3)),
    "sum S−": Certified(ROOTS[1], (0, 1, 3), (2,)),
    "sum T": Certified(ROOTS[2], (0, 1, 2)),
}


def said(folder: Path, it: Announcement) -> tuple[tuple[int, ...] | None, bytes | None]:
    """Return the set of a holder's vote, and its answer, as they would be sent again."""
    journal = SecureJournal(folder)
    vote, release = journal.vote(it.sid), journal.release(it.sid)
    journal.close()
    return vote.members if vote else None, release.answer if release else None


def test_in_all_orders_of_messages_and_restarts_a_journal_comes_to_one_vote_and_one_sum(tmp_path: Path) -> None:
    """From each state that any sequence leads to, whatever its length, each message in turn.

    What a message leaves as it was leads nowhere, so that these are all sequences.
    """
    it = announcement()
    SecureJournal(tmp_path / "0").close()
    reached = {said(tmp_path / "0", it): tmp_path / "0"}
    for before in (todo := list(reached)):
        for what in (*VOTES, *SETS):
            folder = tmp_path / f"{len(reached)}-{todo.index(before)}-{what}"
            shutil.copytree(reached[before], folder)
            try:
                holder_does(folder, what, it)
            except SecureSetRefused:
                assert said(folder, it) == before, "nothing is said that was refused"
                continue
            after = said(folder, it)
            assert all(old in (None, new) for old, new in zip(before, after, strict=True)), (before, what)
            if after not in reached:
                reached[after] = folder
                todo.append(after)
    all_, three = (0, 1, 2, 3), (0, 1, 2)
    assert set(reached) == {
        (None, None), ((), None), (all_, None), (three, None), (all_, b"sum S"), (all_, "sum S−".encode()),
        (three, b"sum T"),
    }  # fmt: skip


# --- attempts at one instruction --------------------------------------------------------------------------------------

ALL, FEWER = PRINTS, PRINTS[:3]


@dataclass(frozen=True)
class Try:
    """An attempt that a device has answered, and what became of it."""

    it: Announcement
    fate: str | tuple[bytes, ...]
    """The set that was summed, or `aborted` or `undecided`."""


def proofs(prior: Try | None, last: Try | None) -> Iterator[tuple[Ending, Sequence[bytes]]]:
    """Yield how the last attempt may be shown to have ended, as a device reads it: certificates cannot be forged."""
    yield Ending.UNKNOWN, []
    if last is None or prior is not last:
        return
    if isinstance(last.fate, tuple):
        yield Ending.RELEASED, last.fate
    else:
        yield _unsummed(last.it)  # by Q votes for ABORT, or by the operator's override of one that was never summed


def tries(history: tuple[Try, ...]) -> Iterator[tuple[Try, ...]]:
    """Yield every history of one attempt more, with whatever message 1, proof and end the device and holders allow."""
    records = [sent(each.it) for each in history]
    last = history[-1] if history else None
    number = len(history)
    for prior, fixed in product((None, *history), ((), ALL, FEWER)):
        told = None if prior is None else Prior(sid=prior.it.sid)
        now = announcement(
            RUNS[number % 2], number + 1, seed=number, attempt=number, fixed=fixed, prior=told
        )  # fmt: skip
        for ending, released in proofs(prior, last):
            try:
                may_send(records, now)
                may_retry(earlier(records, now), now, ending, released)
            except SecureRetryRefused:
                continue
            yield (*history, Try(now, "undecided"))
            yield (*history, Try(now, "aborted"))
            for summed in (ALL, FEWER):
                try:
                    may_sum(now, [PRINTS.index(each) for each in summed], PRINTS)
                except SecureSetRefused:
                    continue
                yield (*history, Try(now, summed))


def test_in_all_histories_of_five_attempts_at_an_instruction_one_set_is_summed_at_most() -> None:
    """Over two runs: with any proof, any fixed set, any end; after attempts that were given up in between as well."""
    histories: list[tuple[Try, ...]] = [()]
    for _ in range(5):
        histories = [longer for each in histories for longer in tries(each)]
        assert histories
        for each in histories:
            assert len({it.fate for it in each if isinstance(it.fate, tuple)}) <= 1, each
    fates = {tuple(it.fate if isinstance(it.fate, str) else len(it.fate) for it in each) for each in histories}
    assert ("aborted", "undecided", 3, "aborted", 3) in fates
    assert ("aborted", "aborted", "aborted", "aborted", 4) in fates
    assert not {fate for fate in fates if {3, 4} <= set(fate)}
