"""The certified set: which updates may be summed, once for all (specs/secure-aggregation.md, 3 and 6).

A holder votes once for a sid: for a set S, naming the clients whose boxes it found malformed, or for ABORT. Q votes of
different holders for the same S are its certificate. A client that more than A − U of those votes complain of is left
out; of two certificates for one sid, which differ at most in such clients, a holder acts on the first it sees.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from argosy_common.secagg.messages import Certificate, Vote
from argosy_common.secagg.parameters import Parameters
from argosy_common.secagg.sealing import VerifyingKey

ABORT = b""


def merkle_root(digests: Mapping[int, bytes]) -> bytes:
    """Return the Merkle root over (i, H(message 2 of i)) in the order of i (RFC 6962's tree, section 2.1)."""
    leaves = [hashlib.sha256(b"\0" + i.to_bytes(2, "big") + digests[i]).digest() for i in sorted(digests)]
    return _root(leaves)


def _root(leaves: Sequence[bytes]) -> bytes:
    if len(leaves) <= 1:
        return leaves[0] if leaves else hashlib.sha256().digest()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + _root(leaves[:split]) + _root(leaves[split:])).digest()


@dataclass(frozen=True)
class Certified:
    """What a certificate says.

    Attributes:
        root: of the set that was voted for; ABORT if the round was given up.
        members: the clients to be summed: those voted for without those dropped.
        dropped: clients that too many holders complain of.
    """

    root: bytes
    members: tuple[int, ...]
    dropped: tuple[int, ...] = ()

    @property
    def aborted(self) -> bool:
        """Whether nothing may be summed."""
        return self.root == ABORT


def certified(
    parameters: Parameters, sid: bytes, certificate: Certificate, identities: Sequence[VerifyingKey]
) -> Certified:
    """Check a certificate; `identities` are those of the roster, by index.

    Raises:
        ValueError: it does not certify anything for this sid, in plain words.
    """
    votes = certificate.votes
    first = votes[0]
    # 1 all for the same: this sid, one root, one set
    if any((vote.sid, vote.root, vote.members) != (sid, first.root, first.members) for vote in votes):
        raise ValueError("its votes are not all for the same set of this round")
    if not well_formed(first, parameters):
        raise ValueError("the set that it is for is malformed")
    # 2 Q different holders of the roster
    holders = {vote.holder for vote in votes}
    if len(holders) != len(votes) or not holders <= set(range(parameters.A)) or len(holders) < parameters.Q:
        raise ValueError(f"it has votes of {len(holders)} holders; {parameters.Q} different ones certify")
    # 3 each signed by its holder
    for vote in votes:
        if not set(vote.complaints) <= set(vote.members) or not vote.holds(identities[vote.holder]):
            raise ValueError(f"the vote of holder {vote.holder} in it is malformed or not signed by that holder")
    return outcome(parameters, votes)


def well_formed(vote: Vote, parameters: Parameters) -> bool:
    """Tell whether a vote's root and set go together: ABORT with no members, or a root with some, in order."""
    ordered = list(vote.members) == sorted(set(vote.members)) and all(i < parameters.n for i in vote.members)
    return ordered and (len(vote.root) == 32 if vote.members else vote.root == ABORT)


def outcome(parameters: Parameters, votes: Sequence[Vote]) -> Certified:
    """Return what checked votes for one root amount to."""
    complaints = Counter(i for vote in votes for i in set(vote.complaints))
    dropped = tuple(sorted(i for i, count in complaints.items() if count > parameters.A - parameters.U))
    return Certified(votes[0].root, tuple(i for i in votes[0].members if i not in dropped), dropped)
