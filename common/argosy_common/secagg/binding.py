"""What a device may join, vote for and release (specs/secure-aggregation.md, 3). Pure: its journal goes in, a
refusal or nothing comes out. Every rule is one function; what they protect against is in docs/threat-model.md.

A device writes down what it does before it says it, so that these rules hold also across power cuts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from argosy_common.errors import SecondUpdateRefused, SecureRetryRefused, SecureSetRefused
from argosy_common.secagg.certificate import ABORT, Certified
from argosy_common.secagg.messages import Announcement


@dataclass(frozen=True)
class Sent:
    """A message 2 that this device wrote down, and so may have sent."""

    sid: bytes
    run: bytes
    round: int
    attempt: int
    instruction: bytes


@dataclass(frozen=True)
class Cast:
    """What this device, as a holder, said of a sid, and what it released of it."""

    root: bytes
    """ABORT, or that of the set it voted for."""
    released: tuple[int, ...] = ()
    """The set whose shares it added up; empty: none yet."""


class Ending(StrEnum):
    """How an earlier attempt is shown to have ended."""

    ABORTED = "aborted"
    RELEASED = "released"
    UNKNOWN = "unknown"
    """Nothing shows it, so it counts as released, of a set that nobody knows."""


def may_send(sent: Sequence[Sent], announcement: Announcement) -> None:
    """Rule 1: one message 2 a run and round; rounds strictly increase.

    Whoever still has the bytes of a message 2 sends them again, and does not ask here: none is made twice.

    Raises:
        SecondUpdateRefused: this device has been in that round, or in a later one of its run.
    """
    if any(each.sid == announcement.sid for each in sent):
        raise SecondUpdateRefused(round=announcement.round)
    if any(each.run == announcement.run and each.round >= announcement.round for each in sent):
        raise SecondUpdateRefused(round=announcement.round)


def earlier(sent: Iterable[Sent], announcement: Announcement) -> Sent | None:
    """Return the last attempt at the same instruction, in whatever run and round, if there is one."""
    same = [each for each in sent if each.instruction == announcement.instruction and each.sid != announcement.sid]
    return same[-1] if same else None


def may_retry(last: Sent | None, announcement: Announcement, ending: Ending, released: Collection[bytes]) -> None:
    """Rule 2: the same instruction again only as the next attempt, with proof of how the last one ended.

    Args:
        last: what `earlier` returned.
        announcement: message 1.
        ending: how the last attempt ended, by the certificate or override in message 1, checked.
        released: fingerprints of the set that the last attempt's certificate is for.

    Raises:
        SecureRetryRefused: it is none of the two that may be: after ABORT any set, after a set exactly that one.
    """
    if last is None:
        return
    prior = announcement.prior
    if prior is None or prior.sid != last.sid:
        raise SecureRetryRefused(why="it has answered it before, and is not told how that ended")
    if ending is Ending.UNKNOWN:
        raise SecureRetryRefused(why="it has answered it before, and nothing shows that nothing was revealed then")
    if ending is Ending.RELEASED and set(announcement.fixed) != set(released):
        raise SecureRetryRefused(why="the sum of its last try is known, so it may only be summed over the same devices")


def may_vote(cast: Cast | None, root: bytes) -> None:
    """Rule 3: one vote a sid, for ever.

    Raises:
        SecureSetRefused: it voted otherwise.
    """
    if cast is not None and cast.root != root:
        what = "gave the round up" if cast.root == ABORT else "voted for another set"
        raise SecureSetRefused(why=f"it {what} before, and has one vote a round")


def may_sum(announcement: Announcement, members: Collection[int], fingerprints: Sequence[bytes]) -> None:
    """Rule 4: not a tiny set, and the fixed one where message 1 fixes it.

    Args:
        announcement: message 1.
        members: the set, indices into the roster.
        fingerprints: of the roster, by index.

    Raises:
        SecureSetRefused: a sum over it would say too much.
    """
    if len(set(members)) < announcement.n_min:
        raise SecureSetRefused(why=f"it has {len(set(members))} updates; at least {announcement.n_min} must be summed")
    if announcement.fixed and {fingerprints[i] for i in members} != set(announcement.fixed):
        raise SecureSetRefused(why="this try may only be summed over the devices of the last one")


def may_release(cast: Cast | None, found: Certified) -> None:
    """Rule 5: shares are added up for one set a sid, the one that is certified.

    Raises:
        SecureSetRefused: another one.
    """
    if found.aborted:
        raise SecureSetRefused(why="the round was given up")
    may_vote(cast, found.root)
    if cast is not None and cast.released and cast.released != found.members:
        raise SecureSetRefused(why="it has added up the shares of another set before")
