"""Certificates: Q different holders for one set, and what their complaints make of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import combinations, product

import pytest

from argosy_common.secagg.certificate import ABORT, Certified, certified, merkle_root, outcome
from argosy_common.secagg.messages import Certificate, Vote
from argosy_common.secagg.parameters import Parameters
from argosy_common.x509 import generate_key

TWELVE = Parameters.of(12, 65521)
KEYS = [generate_key() for _ in range(12)]
PUBLIC = [key.public_key() for key in KEYS]
SID, ROOT = b"s" * 32, b"r" * 32
ALL = tuple(range(12))


def vote(holder: int, *, complaints: Sequence[int] = (), root: bytes = ROOT, members: Sequence[int] = ALL) -> Vote:
    """A holder's vote, signed."""
    made = Vote(sid=SID, holder=holder, root=root, members=tuple(members), complaints=tuple(complaints))
    return made.signed_by(KEYS[holder])


def check(*votes: Vote) -> Certified:
    """Check votes as a certificate."""
    return certified(TWELVE, SID, Certificate(votes=votes), PUBLIC)


def test_q_votes_certify_and_no_fewer() -> None:
    """Eight of twelve."""
    assert TWELVE.Q == 8
    assert check(*map(vote, range(8))) == Certified(ROOT, ALL)
    assert check(*map(vote, range(12))) == Certified(ROOT, ALL)
    with pytest.raises(ValueError, match="7 holders; 8 different ones"):
        check(*map(vote, range(7)))


def test_abort_is_certified_in_the_same_way() -> None:
    """With no members."""
    found = check(*(vote(holder, root=ABORT, members=()) for holder in range(8)))
    assert found.aborted
    assert found.members == ()


@pytest.mark.parametrize(
    ("name", "odd"),
    [
        ("doubled", vote(0)),
        ("another root", vote(7, root=b"x" * 32)),
        ("another set", vote(7, members=ALL[:11])),
        ("another round", vote(7).changed(sid=b"t" * 32).signed_by(KEYS[7])),
        ("unsigned", vote(7).changed(signature=bytes(70))),
        ("another's signature", vote(7).changed(signature=vote(6).signature)),
        ("complaint of a stranger", vote(7, complaints=(13,))),
        ("a holder that there is none of", vote(7).changed(holder=12)),
        ("a holder far beyond", vote(7).changed(holder=255)),
        ("an abort", vote(7, root=ABORT, members=())),
        ("a set without a root", vote(7, root=ABORT)),
        ("altered complaints", vote(7).changed(complaints=(3,))),
    ],
)
def test_one_vote_that_does_not_hold_spoils_a_certificate(name: str, odd: Vote) -> None:
    """It is the coordinator's to leave it out."""
    with pytest.raises(ValueError, match=r"vote|set|holders"):
        check(*map(vote, range(7)), odd)
    assert name


@pytest.mark.parametrize("members", [(), (3, 2, 1), (1, 1, 2), (1, 2, 40)], ids=str)
def test_a_set_that_is_malformed_certifies_nothing(members: tuple[int, ...]) -> None:
    """In order, distinct, of the group."""
    with pytest.raises(ValueError, match="malformed"):
        check(*(vote(holder, members=members) for holder in range(8)))


@pytest.mark.parametrize("complainers", range(9))
def test_a_client_is_dropped_if_more_than_a_minus_u_holders_complain(complainers: int) -> None:
    """More than three of twelve, so at least one honest one."""
    votes = [vote(holder, complaints=(5,) if holder < complainers else ()) for holder in range(8)]
    found = check(*votes)
    assert (5 in found.dropped) is (complainers > 3)
    assert found.members == tuple(i for i in ALL if i not in found.dropped)


def test_as_many_complaints_as_colluders_can_make_drop_nobody() -> None:
    """A − U is T or more for every group, so it takes an honest holder's; the least that drop somebody are one more."""
    for n in range(4, 65):
        parameters = Parameters.of(n, 65521)
        assert parameters.A - parameters.U >= parameters.T
        for complainers in (parameters.T, parameters.A - parameters.U, parameters.A - parameters.U + 1):
            votes = [
                Vote(sid=SID, holder=j, root=ROOT, members=(0, 1), complaints=(1,) if j < complainers else ())
                for j in range(n)
            ]
            assert outcome(parameters, votes).dropped == ((1,) if complainers > parameters.A - parameters.U else ())


def test_a_complaint_that_a_vote_repeats_counts_once() -> None:
    """One holder has one voice on a client."""
    votes = [vote(holder, complaints=(5, 5, 5, 5) if holder == 0 else ()) for holder in range(8)]
    assert check(*votes).dropped == ()


@pytest.mark.parametrize("a", range(4, 9))
def test_no_two_sets_are_certified_whatever_colluders_vote(a: int) -> None:
    """Exhaustively: honest holders vote once, for one set or the other or not; T vote for both."""
    parameters = Parameters.of(a, 65521)
    for choices in product(("S", "S'", ""), repeat=a - parameters.T):
        assert min(choices.count("S"), choices.count("S'")) + parameters.T < parameters.Q


@pytest.mark.parametrize("a", range(4, 9))
def test_any_two_certificates_share_an_honest_holder(a: int) -> None:
    """Exhaustively: two sets of Q holders have more than T in common."""
    parameters = Parameters.of(a, 65521)
    quorums = [set(each) for each in combinations(range(a), parameters.Q)]
    assert all(len(one & other) > parameters.T for one in quorums for other in quorums)


def test_the_root_is_that_of_rfc_6962_over_clients_and_digests() -> None:
    """A golden one by hand; any change changes it; the order of insertion does not."""
    digests = {2: b"c" * 32, 0: b"a" * 32, 7: b"b" * 32}
    leaf = {i: hashlib.sha256(b"\0" + i.to_bytes(2, "big") + it).digest() for i, it in digests.items()}
    left = hashlib.sha256(b"\1" + leaf[0] + leaf[2]).digest()
    root = merkle_root(digests)
    assert root == hashlib.sha256(b"\1" + left + leaf[7]).digest()
    assert merkle_root(dict(sorted(digests.items()))) == root
    assert root.hex() == "1f133166d4daa7806f0a358fee9b7e1152ce01b677f19ad8a6ba6db685cc4472"
    others = [{**digests, 2: b"x" * 32}, {0: b"a" * 32, 2: b"c" * 32}, {**digests, 1: b"d" * 32}, {}]
    swapped = {2: b"a" * 32, 0: b"c" * 32, 7: b"b" * 32}
    assert len({root, *map(merkle_root, others), merkle_root(swapped)}) == 6


@pytest.mark.parametrize("count", range(1, 18))
def test_each_client_and_each_digest_is_in_the_root(count: int) -> None:
    """For all shapes of the tree: one digest changed, one client left out, added or under another number."""
    digests = {i: hashlib.sha256(bytes([i])).digest() for i in range(count)}
    roots = {merkle_root(digests), merkle_root({**digests, count: bytes(32)})}
    for i in range(count):
        rest = {k: it for k, it in digests.items() if k != i}
        roots |= {merkle_root(rest), merkle_root({**rest, i: bytes(32)}), merkle_root({**rest, 40: digests[i]})}
    assert len(roots) == 2 + 3 * count
