"""Every row of the threat table (specs/secure-aggregation.md, 7), with the attacker played and the devices real.

The coordinator is malicious: it knows the protocol, signs what it likes, and talks to the devices' own handlers, whose
journals and keys lie in files and are opened anew for each message.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict

from argosy_common.errors import (
    FleetListInvalid,
    InstructionDiffers,
    PeerUnlisted,
    PrekeyUnknown,
    RosterInvalid,
    SecondUpdateRefused,
    SecureBoxTampered,
    SecureMessageMalformed,
    SecureParametersRefused,
    SecureRequired,
    SecureRetryRefused,
    SecureSetRefused,
    SecureSignatureInvalid,
    SecureStateLost,
)
from argosy_common.flower.secure import SECAGG, parcels
from argosy_common.flower.secure.digest import app_digest, instruction_digest
from argosy_common.flower.secure.journal import SecureJournal
from argosy_common.flower.secure.keep import Keep
from argosy_common.flower.secure.mod import SecureMod
from argosy_common.flower.secure.parcels import Stage
from argosy_common.prg import Suite
from argosy_common.secagg.admission import Policy, admit
from argosy_common.secagg.client import digest_of
from argosy_common.secagg.messages import Answer, Header, PrekeyBatch, Prior, SignedHeader
from argosy_common.secagg.sealing import BoxAddress, fingerprint, public_der, seal
from argosy_common.x509 import generate_identity_key
from tests.common.flower.secure.attacks import Attacker, box_of, certify, header_of, signed_blob, vote_of
from tests.common.flower.secure.fleet import SecureFleet, instructions, trained
from tests.common.flower.secure.test_secure_grid import BASE, check

FOUR = range(4)


@pytest.fixture
def fleet(tmp_path: Path) -> SecureFleet:
    """Six devices: U = 5, T = 1, Q = 4, n_min = 3."""
    return SecureFleet(tmp_path, 6)


@pytest.fixture
def attacker(fleet: SecureFleet) -> Attacker:
    """The coordinator."""
    return Attacker(fleet)


def journal_of(fleet: SecureFleet, node: int) -> tuple[int, int]:
    """How many updates a device sent, and how many votes it cast."""
    journal = fleet.keep(node).journal
    sent, cast = (journal._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("sent", "cast"))  # noqa: S608
    journal.close()
    return sent, cast


# --- mints or swaps devices and keys ----------------------------------------------------------------------------------


def test_a_roster_with_one_swapped_or_one_doubled_entry_is_refused_by_every_device(attacker: Attacker) -> None:
    """A key that another device signed; a device twice; a key twice; a device that is not in it."""
    nodes = attacker.fleet.nodes
    honest = attacker.announce(nodes, 1)
    first, second, *rest = honest.roster
    rosters = {
        "swapped": (first.changed(key=second.key), second, *rest),
        "foreign": (first.changed(identity=second.identity), *rest, second),
        "doubled": (first, first, *rest),
        "doubled key": (first.changed(identity=honest.coordinator), first, *rest),
    }
    for name, roster in rosters.items():
        for node in nodes[2:]:
            with pytest.raises(RosterInvalid):
                attacker.train(node, honest.changed(roster=roster))
            assert journal_of(attacker.fleet, node) == (0, 0), name
    with pytest.raises((RosterInvalid, SecureParametersRefused)):
        attacker.train(nodes[0], attacker.announce(nodes[1:], 1))
    assert not attacker.fleet.calls


def test_a_minted_device_is_unlisted_and_every_honest_device_refuses(tmp_path: Path) -> None:
    """With an operator's key the coordinator's word counts for nothing: not for a device more, nor in one's place."""
    fleet = SecureFleet(tmp_path, 5, operator=True)
    attacker = Attacker(fleet)
    version, data = fleet.listed()
    told = parcels.bytes_record(list=data)
    minted = generate_identity_key()
    secret = X25519PrivateKey.generate()
    (made_up,) = PrekeyBatch.made(
        minted, public_der(minted.public_key()), [secret.public_key().public_bytes_raw()]
    ).prekeys()
    honest = attacker.announce(fleet.nodes, 1, fleet_version=version)
    first, *rest = honest.roster
    six = attacker.announce([*fleet.nodes, fleet.nodes[0]], 1, fleet_version=version)
    for announcement in (honest.changed(roster=(made_up, *rest)), six.changed(roster=(*honest.roster, made_up))):
        for node in fleet.nodes[1:]:
            with pytest.raises(PeerUnlisted, match=fingerprint(made_up.identity).hex()[:16]):
                attacker.train(node, announcement, fleet=told)
    for roster in ((first.changed(key=made_up.key), *rest), (first, first, *rest[1:])):
        for node in fleet.nodes[2:]:
            with pytest.raises(RosterInvalid):
                attacker.train(node, honest.changed(roster=roster), fleet=told)
    with pytest.raises(FleetListInvalid):
        attacker.train(fleet.nodes[0], honest)  # no list at all: the last one that was seen, and none was
    assert not fleet.calls
    assert {journal_of(fleet, node) for node in fleet.nodes} == {(0, 0)}


def test_holders_too_refuse_a_device_that_was_struck_off(tmp_path: Path) -> None:
    """They go by the newest list that they have seen, also when a round is half over."""
    fleet = SecureFleet(tmp_path, 6, operator=True)
    attacker = Attacker(fleet)
    (_, old), (version, new) = fleet.listed(), fleet.listed(fleet.nodes[:5], version=3)
    announcement = attacker.announce(fleet.nodes, 1, fleet_version=1)
    updates = {
        i: attacker.train(node, announcement, fleet=parcels.bytes_record(list=old))
        for i, node in enumerate(fleet.nodes)
    }
    later = attacker.announce(fleet.nodes, 2, fleet_version=version)
    with pytest.raises(PeerUnlisted):
        attacker.train(fleet.nodes[0], later, fleet=parcels.bytes_record(list=new))
    with pytest.raises(SecureParametersRefused, match="version 1 of the fleet list, this device by 3"):
        attacker.hand(fleet.nodes, 0, announcement, updates)
    assert journal_of(fleet, fleet.nodes[0]) == (1, 0)


# --- a different scale, cap, model, configuration for one client ------------------------------------------------------


@pytest.mark.parametrize("changed", [{"scales": b"\xca\xf2\x49\x71" * 2}, {"w_cap": 1}, {"seed": b"x" * 32}], ids=str)
def test_a_victim_with_a_scale_or_cap_of_its_own_is_in_a_round_of_its_own(
    attacker: Attacker, changed: dict[str, Any]
) -> None:
    """Scales of 1e30 for the others: their sids differ, no header of theirs is one of the victim's round."""
    nodes = attacker.fleet.nodes
    normal = attacker.announce(nodes, 1)
    strange = normal.changed(**changed)
    assert normal.sid != strange.sid
    updates = {0: attacker.train(nodes[0], normal)}
    updates |= {i: attacker.train(nodes[i], strange) for i in range(1, 6)}
    for announcement in (normal, strange):
        for holder in range(6):
            with pytest.raises((SecureMessageMalformed, SecureSignatureInvalid)):
                attacker.hand(nodes, holder, announcement, updates)
    assert {journal_of(attacker.fleet, node)[1] for node in nodes} == {0}


def test_an_instruction_of_its_own_is_refused_by_the_device_that_gets_it(attacker: Attacker) -> None:
    """Another model, another learning rate, another type: message 1 names one instruction."""
    nodes = attacker.fleet.nodes
    announcement = attacker.announce(nodes, 1)
    content = instructions(attacker.fleet)[0].content
    arrays = content.array_records["arrays"]
    model = ArrayRecord({name: Array(np.asarray(array.numpy() * 0)) for name, array in arrays.items()})
    config = ConfigRecord({**dict(content.config_records["config"]), "lr": 1e30})
    for other in (
        RecordDict({**dict(content), "arrays": model}),
        RecordDict({**dict(content), "config": config}),
        RecordDict({**dict(content), "more": ConfigRecord({"a": 1})}),
    ):
        with pytest.raises(InstructionDiffers):
            attacker.train(nodes[0], announcement, other)
    assert not attacker.fleet.calls
    assert journal_of(attacker.fleet, nodes[0]) == (0, 0)


# --- different S to different holders -------------------------------------------------------------------------------


def test_of_two_sets_no_second_certificate_forms_also_after_restarts(attacker: Attacker) -> None:
    """Each holder votes once for ever, and Q votes of six leave too few for another Q."""
    nodes = attacker.fleet.nodes
    announcement = attacker.announce(nodes, 1)
    updates = attacker.collect(nodes, announcement)
    fewer = {i: updates[i] for i in range(5)}
    votes = attacker.votes(nodes, announcement, updates, FOUR)
    for holder in FOUR:
        with pytest.raises(SecureSetRefused, match="voted for another set"):
            attacker.hand(nodes, holder, announcement, fewer)
    others = attacker.votes(nodes, announcement, fewer, [4, 5])
    for mixed in (others, [*others, *votes[:2]], others * 2):
        with pytest.raises(SecureSetRefused, match="certificate does not hold"):
            attacker.hand(nodes, 4, announcement, fewer, stage=Stage.SUM, certificate=certify(mixed))
    # the first set's certificate moves nobody to sum the second
    for holder in range(6):
        with pytest.raises(SecureSetRefused):
            attacker.hand(nodes, holder, announcement, fewer, stage=Stage.SUM, certificate=certify(votes))
    # a repeated vote is the same bytes
    assert attacker.votes(nodes, announcement, updates, FOUR) == votes


def test_a_holder_sums_the_certified_set_once_and_forgets_its_key(attacker: Attacker) -> None:
    """The same answer again; nothing else under this sid."""
    nodes = attacker.fleet.nodes
    announcement = attacker.announce(nodes, 1)
    updates = attacker.collect(nodes, announcement)
    certificate = certify(attacker.votes(nodes, announcement, updates, range(5)))
    one, two = (
        attacker.hand(nodes, 0, announcement, updates, stage=Stage.SUM, certificate=certificate) for _ in range(2)
    )
    assert one.content.config_records[SECAGG] == two.content.config_records[SECAGG]
    keep = attacker.fleet.keep(nodes[0])
    assert keep.journal.prekey(announcement.roster[0].key) is None
    keep.journal.close()
    with pytest.raises(PrekeyUnknown):
        attacker.train(nodes[0], attacker.announce(nodes, 2).changed(roster=announcement.roster))


# --- a retry with S minus one ----------------------------------------------------------------------------------------


def retried(attacker: Attacker, announcement: Any, **changed: Any) -> Any:  # noqa: ANN401  (messages 1)
    """Return the next attempt at the same instruction, in a later step of the run."""
    fresh = attacker.announce(attacker.fleet.nodes, announcement.round + 1)
    told = {"round": announcement.round + 1, "attempt": 1, "roster": fresh.roster, "seed": os.urandom(32)}
    return announcement.changed(**{**told, **changed})


def again(attacker: Attacker, node: int, announcement: Any) -> Message:  # noqa: ANN401  (message 1)
    """Send a device the first round's instruction again, with another message 1."""
    return attacker.train(node, announcement, instructions(attacker.fleet, number=1)[0].content)


def test_after_a_set_only_exactly_that_set_passes(attacker: Attacker) -> None:
    """With its certificate; the holders see to it that it is that set."""
    fleet, nodes = attacker.fleet, attacker.fleet.nodes
    first = attacker.announce(nodes, 1)
    updates = attacker.collect(nodes, first)
    certificate = certify(attacker.votes(nodes, first, updates, range(5)))
    whole, fewer = tuple(sorted(fleet.fingerprints)), tuple(sorted(fleet.fingerprints[1:]))
    prior = Prior(sid=first.sid, certificate=certificate)
    for wrong in ({}, {"prior": prior}, {"prior": prior, "fixed": fewer}, {"fixed": whole}):
        with pytest.raises(SecureRetryRefused):
            again(attacker, nodes[0], retried(attacker, first, **wrong))
    second = retried(attacker, first, prior=prior, fixed=whole)
    masked = {i: again(attacker, node, second) for i, node in enumerate(nodes)}
    with pytest.raises(SecureSetRefused, match="only be summed over the devices of the last one"):
        attacker.hand(nodes, 0, second, {i: masked[i] for i in range(5)})
    assert vote_of(attacker.hand(nodes, 0, second, masked)).members == tuple(range(6))


def test_after_abort_any_set_passes_and_the_old_round_is_dead(attacker: Attacker) -> None:
    """Q holders said that nothing will be summed, and stay with it."""
    nodes = attacker.fleet.nodes
    first = attacker.announce(nodes, 1)
    updates = attacker.collect(nodes, first)
    aborted = attacker.abort(nodes, first, FOUR)
    for holder in FOUR:
        with pytest.raises(SecureSetRefused, match="gave the round up"):
            attacker.hand(nodes, holder, first, updates)
    second = retried(attacker, first, prior=Prior(sid=first.sid, certificate=certify(aborted)))
    masked = {i: again(attacker, nodes[i], second) for i in range(5)}
    assert vote_of(attacker.hand(nodes, 0, second, masked)).members == tuple(range(5))


def test_an_undecided_round_counts_as_released(attacker: Attacker) -> None:
    """Too few votes, forged votes, or those of another round prove nothing."""
    nodes = attacker.fleet.nodes
    first = attacker.announce(nodes, 1)
    updates = attacker.collect(nodes, first)
    votes = attacker.votes(nodes, first, updates, range(3))
    forged = votes[0].changed(holder=3)
    for certificate in (b"", certify(votes), certify([*votes, forged]), certify([*votes, votes[0]])):
        prior = Prior(sid=first.sid, certificate=certificate)
        with pytest.raises(SecureRetryRefused):
            again(attacker, nodes[0], retried(attacker, first, prior=prior))
    assert journal_of(attacker.fleet, nodes[0])[0] == 1


# --- the same client in two groups, or the same round in another run --------------------------------------------------


def test_a_client_sends_one_update_a_round_whatever_group_or_run_asks(attacker: Attacker) -> None:
    """Another group, an earlier round, the same instruction in a later round, or in a run of another coordinator."""
    nodes = attacker.fleet.nodes
    first = attacker.announce(nodes, 5)
    content = instructions(attacker.fleet, number=5)[0].content
    attacker.train(nodes[0], first)
    fresh = attacker.announce(nodes, 5).roster
    for changed in ({"group": 1}, {"round": 4}, {"seed": b"y" * 32}):
        with pytest.raises(SecondUpdateRefused):
            attacker.train(nodes[0], first.changed(roster=fresh, **changed), content)
    with pytest.raises(SecureRetryRefused):
        attacker.train(nodes[0], first.changed(roster=fresh, round=9), content)
    other = generate_identity_key()
    elsewhere = attacker.announce(nodes, 5, other)
    assert elsewhere.run != first.run
    bound = RecordDict({**dict(content)})
    bound[SECAGG] = ConfigRecord({"stage": Stage.UPDATE, parcels.MESSAGE_1: signed_blob(elsewhere, other)})
    with pytest.raises(SecureRetryRefused, match="not told how that ended"):
        attacker.fleet.deliver(nodes[0], Message(bound, nodes[0], "train"))
    assert journal_of(attacker.fleet, nodes[0]) == (1, 0)
    assert attacker.fleet.calls == [nodes[0]]


# --- one client claimed both in and out -------------------------------------------------------------------------------


@pytest.mark.parametrize("in_first", [True, False])
def test_a_client_claimed_both_in_and_out_is_in_one_sum_at_most(attacker: Attacker, *, in_first: bool) -> None:
    """In the older protocols two sorts of shares give its mask away; here holders only add over one certified set."""
    nodes = attacker.fleet.nodes
    announcement = attacker.announce(nodes, 1)
    whole = attacker.collect(nodes, announcement)
    without = {i: whole[i] for i in range(1, 6)}
    first, second = (whole, without) if in_first else (without, whole)
    certificate = certify(attacker.votes(nodes, announcement, first, range(5)))
    answers = [attacker.hand(nodes, j, announcement, first, stage=Stage.SUM, certificate=certificate) for j in range(5)]
    sets = {Answer.parse(it.content.config_records[SECAGG]["answer"], peer="a device").members for it in answers}
    assert sets == {tuple(sorted(first))}
    refused = 0
    for holder in range(6):
        for stage in (Stage.VOTE, Stage.SUM):
            try:
                attacker.hand(nodes, holder, announcement, second, stage=stage, certificate=certificate)
            except (SecureSetRefused, SecureMessageMalformed):
                refused += 1
    # the holder that has not voted may vote for the other set: one vote, of four that a certificate takes
    assert refused == 11


# --- tiny S -----------------------------------------------------------------------------------------------------------


def test_a_tiny_set_is_refused_by_holders_whatever_message_1_says(attacker: Attacker) -> None:
    """A client counted twice does not help; neither does a smaller n_min."""
    nodes = attacker.fleet.nodes
    announcement = attacker.announce(nodes, 1)
    updates = attacker.collect(nodes, announcement)
    for small in ({}, {0: updates[0]}, {0: updates[0], 1: updates[1]}):
        with pytest.raises((SecureSetRefused, SecureMessageMalformed)):
            attacker.hand(nodes, 0, announcement, small)
    signed_smaller = announcement.changed(n_min=2)
    with pytest.raises(SecureParametersRefused, match="at least 3"):
        attacker.train(nodes[0], signed_smaller)
    for stage in (Stage.VOTE, Stage.SUM, Stage.ABORT):
        with pytest.raises(SecureParametersRefused, match="at least 3"):
            attacker.hand(nodes, 0, signed_smaller, {0: updates[0], 1: updates[1]}, stage=stage)
    assert journal_of(attacker.fleet, nodes[0])[1] == 0


def test_a_client_twice_in_a_set_is_refused(attacker: Attacker) -> None:
    """Three headers of two clients are two."""
    nodes = attacker.fleet.nodes
    announcement = attacker.announce(nodes, 1)
    updates = attacker.collect(nodes, announcement)
    doubled = {0: updates[0], 1: updates[1], 2: updates[1]}
    with pytest.raises(SecureSetRefused, match="twice"):
        attacker.hand(nodes, 0, announcement, doubled)


# --- replay and downgrade ---------------------------------------------------------------------------------------------


def test_old_headers_votes_and_certificates_are_worth_nothing_in_another_round(attacker: Attacker) -> None:
    """All of them bind the sid."""
    nodes = attacker.fleet.nodes
    first, second = attacker.announce(nodes, 1), attacker.announce(nodes, 2)
    old, new = attacker.collect(nodes, first), attacker.collect(nodes, second)
    certificate = certify(attacker.votes(nodes, first, old, range(5)))
    with pytest.raises((SecureMessageMalformed, SecureSignatureInvalid)):
        attacker.hand(nodes, 0, second, {**new, 3: old[3]})
    attacker.votes(nodes, second, new, range(5))
    with pytest.raises(SecureSetRefused):
        attacker.hand(nodes, 0, second, new, stage=Stage.SUM, certificate=certificate)


def test_a_cipher_below_the_devices_floor_is_refused(attacker: Attacker) -> None:
    """The device's own choice counts, whatever all others were told."""
    announcement = attacker.announce(attacker.fleet.nodes, 1, suite="chacha20")
    with pytest.raises(SecureParametersRefused, match="cipher"):
        admit(announcement, attacker.fleet.fingerprints[0], Policy(suites={Suite.AES}))


@pytest.mark.parametrize(
    "changed", [{"U": 4}, {"T": 0}, {"A": 5}, {"p": 65537}, {"U": 6}, {"size": 9000}, {"scales": b""}], ids=str
)
def test_parameters_that_are_not_those_of_the_specification_are_refused(
    attacker: Attacker, changed: dict[str, Any]
) -> None:
    """A device works them out for itself."""
    nodes = attacker.fleet.nodes
    with pytest.raises(SecureParametersRefused):
        attacker.train(nodes[0], attacker.announce(nodes, 1, **changed))
    assert not attacker.fleet.calls


def test_a_message_1_that_its_runs_key_did_not_sign_is_refused(attacker: Attacker) -> None:
    """Nor can a run's id be that of another key."""
    nodes = attacker.fleet.nodes
    honest, other = attacker.announce(nodes, 1), public_der(generate_identity_key().public_key())
    for forged in (honest.changed(coordinator=other), honest.changed(run=b"r" * 16)):
        with pytest.raises(SecureSignatureInvalid):
            attacker.train(nodes[0], forged)


# --- malformed boxes --------------------------------------------------------------------------------------------------


def with_bad_boxes(fleet: SecureFleet, announcement: Any, update: Message, client: int, holders: Any) -> Message:  # noqa: ANN401
    """Return a malicious client's message 2: some boxes hold nonsense, and all of it is properly signed."""
    header = Header.parse(header_of(update).header, peer="the client")
    boxes = {j: box_of(update, j) for j in range(len(announcement.roster))}
    ephemeral = X25519PrivateKey.generate()
    for j in boxes:
        address = BoxAddress(announcement.sid, fleet.fingerprints[client], fleet.fingerprints[j])
        content = b"\1" + bytes(7) if j in holders else b"\0" + bytes(32)
        boxes[j] = seal(announcement.prg, ephemeral, announcement.roster[j].key, address, content)
    changed = header.changed(
        ephemeral=ephemeral.public_key().public_bytes_raw(),
        boxes=tuple(hashlib.sha256(boxes[j]).digest() for j in sorted(boxes)),
    )
    made = RecordDict(dict(update.content))
    made[SECAGG] = ConfigRecord(
        {"stage": Stage.UPDATE, "header": SignedHeader.made(fleet.keys[client], changed).packed}
    )
    arrays = dict(update.content.array_records[parcels.UPDATE])
    arrays |= {parcels.box_name(j): Array(np.frombuffer(box, np.uint8)) for j, box in boxes.items()}
    made[parcels.UPDATE] = ArrayRecord(arrays)
    return Message(made, reply_to=Message(RecordDict(), fleet.nodes[client], "train"))


def test_a_client_with_malformed_boxes_is_dropped_when_more_than_a_minus_u_complain(tmp_path: Path) -> None:
    """The others' sum goes on without it, and the complainers can take part in it."""
    fleet = SecureFleet(tmp_path, 12)
    attacker = Attacker(fleet)
    nodes = fleet.nodes
    announcement = attacker.announce(nodes, 1)
    updates = attacker.collect(nodes, announcement)
    updates[7] = with_bad_boxes(fleet, announcement, updates[7], 7, range(12))
    votes = attacker.votes(nodes, announcement, updates, range(12))
    assert all(7 in vote.complaints for vote in votes)
    reply = attacker.hand(nodes, 0, announcement, updates, stage=Stage.SUM, certificate=certify(votes))
    answer = Answer.parse(reply.content.config_records[SECAGG]["answer"], peer="a device")
    assert answer.members == (0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11)


def test_of_two_certificates_for_one_set_a_holder_acts_on_the_first_only(tmp_path: Path) -> None:
    """The coordinator chooses which complaints it shows: with them the client is out, without them it is in."""
    fleet = SecureFleet(tmp_path, 12)
    attacker = Attacker(fleet)
    nodes = fleet.nodes
    announcement = attacker.announce(nodes, 1)
    updates = attacker.collect(nodes, announcement)
    updates[7] = with_bad_boxes(fleet, announcement, updates[7], 7, range(4))
    votes = attacker.votes(nodes, announcement, updates, range(12))
    complaining = [vote for vote in votes if vote.complaints]
    content = [vote for vote in votes if not vote.complaints]
    assert len(complaining) > 3
    out, in_ = certify(votes), certify([*content, *complaining][:8])
    holder = content[0].holder
    for first, second, members in ((out, in_, 11), (in_, out, 12)):
        reply = attacker.hand(nodes, holder, announcement, updates, stage=Stage.SUM, certificate=first)
        answer = Answer.parse(reply.content.config_records[SECAGG]["answer"], peer="it")
        assert len(answer.members) == members
        with pytest.raises(SecureSetRefused, match="shares of another set"):
            attacker.hand(nodes, holder, announcement, updates, stage=Stage.SUM, certificate=second)
        holder = content[1].holder


def test_with_fewer_complaints_the_complainers_fall_silent_and_the_client_stays(tmp_path: Path) -> None:
    """Seeds for all: the three holders that are due elements complain, and three are not more than A − U."""
    fleet = SecureFleet(tmp_path, 12)
    attacker = Attacker(fleet)
    nodes = fleet.nodes
    announcement = attacker.announce(nodes, 1)
    updates = attacker.collect(nodes, announcement)
    updates[7] = with_bad_boxes(fleet, announcement, updates[7], 7, ())
    votes = attacker.votes(nodes, announcement, updates, range(12))
    complainers = [vote.holder for vote in votes if vote.complaints]
    assert len(complainers) == 3
    certificate = certify(votes)
    for holder in range(12):
        if holder in complainers:
            with pytest.raises(SecureSetRefused, match="malformed"):
                attacker.hand(nodes, holder, announcement, updates, stage=Stage.SUM, certificate=certificate)
        else:
            reply = attacker.hand(nodes, holder, announcement, updates, stage=Stage.SUM, certificate=certificate)
            answer = Answer.parse(reply.content.config_records[SECAGG]["answer"], peer="it")
            assert answer.members == tuple(range(12))


def test_a_box_changed_on_the_way_is_told_as_such_and_no_client_is_blamed(attacker: Attacker) -> None:
    """The signed digest tells the coordinator's doing from the client's."""
    nodes = attacker.fleet.nodes
    announcement = attacker.announce(nodes, 1)
    updates = attacker.collect(nodes, announcement)
    box = box_of(updates[2], 0)
    changed = bytes([box[0] ^ 1]) + box[1:]
    with pytest.raises(SecureBoxTampered, match=f"{nodes[2]:016x} for the holder {nodes[0]:016x}"):
        attacker.hand(nodes, 0, announcement, updates, tamper={2: changed})
    with pytest.raises(SecureMessageMalformed, match="at most"):
        attacker.hand(nodes, 0, announcement, updates, tamper={2: box + bytes(100_000)})
    assert journal_of(attacker.fleet, nodes[0])[1] == 0


# --- wrong sums from holders ------------------------------------------------------------------------------------------


def lying(fleet: SecureFleet, liars: set[int], *, everywhere: bool = False) -> None:
    """Let some holders sign and send another sum than theirs: at one coordinate, or each its own at all of them."""
    rng = np.random.default_rng(7)

    def lie(node: int, stage: str, message: Message) -> Message | None:
        if stage != Stage.SUM or node not in liars:
            return None
        total = message.content.array_records[parcels.TOTAL][parcels.SUMMED].numpy()
        lies = rng.integers(1, 65521, len(total))
        some = slice(None) if everywhere else slice(len(total) // 2, len(total) // 2 + 1)
        total[some] = (total[some].astype(np.int64) + lies[some]) % 65521
        told = Answer.parse(message.content.config_records[SECAGG]["answer"], peer="it")
        key = fleet.keys[fleet.nodes.index(node)]
        answer = told.changed(total=digest_of(total)).signed_by(key)
        message.content[SECAGG] = ConfigRecord({"stage": Stage.SUM, "answer": answer.packed})
        message.content[parcels.TOTAL] = ArrayRecord({parcels.SUMMED: Array(total)})
        return message

    fleet.up = lie


def test_one_wrong_sum_of_u_plus_two_is_put_right_and_its_holder_named(tmp_path: Path) -> None:
    """Twelve answer, nine are needed: one liar at one coordinate."""
    fleet = SecureFleet(tmp_path, 12)
    liar = fleet.nodes[4]
    lying(fleet, {liar})
    (reply,) = fleet.grid().send_and_receive(instructions(fleet, BASE), timeout=100)
    check(reply, fleet.nodes)
    (group,) = fleet.told("secure-group")
    assert group["wrong"] == [f"{liar:016x}"]
    assert group["checked"]


def test_with_exactly_u_answers_the_sum_is_flagged_as_unchecked(tmp_path: Path) -> None:
    """Nothing is left over to check with."""
    fleet = SecureFleet(tmp_path, 12)
    fleet.away = {(node, Stage.SUM) for node in fleet.nodes[:3]}
    fleet.grid().send_and_receive(instructions(fleet), timeout=100)
    (group,) = fleet.told("secure-group")
    assert (group["answers"], group["checked"], group["wrong"]) == (9, False, [])


def test_more_liars_than_can_be_put_right_fail_the_round_by_name(tmp_path: Path) -> None:
    """Two of eleven, with nine needed: found out. Had they agreed on their lies, they could frame a third."""
    fleet = SecureFleet(tmp_path, 12)
    lying(fleet, set(fleet.nodes[3:5]), everywhere=True)
    fleet.away = {(fleet.nodes[0], Stage.SUM)}
    replies = list(fleet.grid().send_and_receive(instructions(fleet), timeout=100))
    (group,) = fleet.told("secure-group")
    assert group["error"]["code"] == "secure-sum-inconsistent"
    assert all(reply.has_error() for reply in replies)


# --- plain instructions in place of secure ones -----------------------------------------------------------------------


def test_a_device_that_requires_secure_runs_answers_nothing_else(fleet: SecureFleet) -> None:
    """A coordinator may always start a plain run; such a device takes no part in it."""
    node = fleet.nodes[0]
    mod = SecureMod(Keep(replace(fleet.home(node), required=True)))
    context = Context(run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={})
    for kind in ("train", "evaluate", "query"):
        with pytest.raises(SecureRequired):
            mod(Message(RecordDict(), node, kind), context, fleet.app)
    assert not fleet.calls


# --- power cuts -------------------------------------------------------------------------------------------------------


class PowerCut(BaseException):
    """The device is gone, whatever it was at."""


def cut(monkeypatch: pytest.MonkeyPatch, step: str, *, after: bool) -> None:
    """Let the power fail right before, or right after, the journal has done something."""
    honest = getattr(SecureJournal, step)

    def cutting(journal: SecureJournal, *given: object) -> None:
        if after:
            honest(journal, *given)
        raise PowerCut

    monkeypatch.setattr(SecureJournal, step, cutting)


def bytes_of(reply: Message) -> dict[str, object]:
    """Return all that a reply says."""
    arrays = {
        f"{record}/{name}": array.numpy().tobytes()
        for record, its in reply.content.array_records.items()
        for name, array in its.items()
    }
    return {**arrays, **dict(reply.content.config_records[SECAGG])}


def test_after_a_power_cut_before_its_update_is_written_down_a_device_has_sent_none(
    attacker: Attacker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its bytes are on disk, or before it is known that they are: what it masks then is the only one ever."""
    nodes = attacker.fleet.nodes
    announcement = attacker.announce(nodes, 1)
    node, folder = nodes[0], attacker.fleet.home(nodes[0]).folder / "updates"
    for step, lie in (("write_update", 0), ("_transaction", 1)):
        with monkeypatch.context() as broken:
            cut(broken, step, after=False)
            with pytest.raises(PowerCut):
                attacker.train(node, announcement)
        assert journal_of(attacker.fleet, node) == (0, 0)
        assert len(list(folder.iterdir())) == lie, "bytes that nobody was sent, and nobody will be"
    replies = [bytes_of(attacker.train(node, announcement)) for _ in range(3)]
    assert replies[0] == replies[1] == replies[2]
    assert journal_of(attacker.fleet, node) == (1, 0)
    assert len(list(folder.iterdir())) == 1
    assert attacker.fleet.calls == [node] * 3


def test_after_a_power_cut_once_its_update_is_written_down_a_device_sends_that_and_masks_no_second(
    attacker: Attacker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes to the same message, and nothing to any other of that round."""
    nodes = attacker.fleet.nodes
    announcement = attacker.announce(nodes, 1)
    with monkeypatch.context() as broken:
        cut(broken, "write_update", after=True)
        with pytest.raises(PowerCut):
            attacker.train(nodes[0], announcement)
    keep = attacker.fleet.keep(nodes[0])
    written = keep.journal.update(announcement.sid)
    assert written is not None
    arrays = written.array_records[parcels.UPDATE]
    kept = {f"{parcels.UPDATE}/{name}": array.numpy().tobytes() for name, array in arrays.items()}
    keep.journal.close()
    for _ in range(2):
        sent = bytes_of(attacker.train(nodes[0], announcement))
        assert {name: data for name, data in sent.items() if "/" in name} == kept
    with pytest.raises(SecondUpdateRefused):
        attacker.train(nodes[0], announcement.changed(seed=b"z" * 32))
    assert attacker.fleet.calls == [nodes[0]]
    assert journal_of(attacker.fleet, nodes[0]) == (1, 0)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_power_cut_at_a_vote_leaves_one_vote(
    attacker: Attacker, monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    """Before it is written down nobody has it, and another set may still be voted for; after that none may."""
    nodes = attacker.fleet.nodes
    announcement = attacker.announce(nodes, 1)
    updates = attacker.collect(nodes, announcement)
    fewer = {i: updates[i] for i in range(5)}
    with monkeypatch.context() as broken:
        cut(broken, "write_vote", after=after)
        with pytest.raises(PowerCut):
            attacker.hand(nodes, 0, announcement, updates)
    assert journal_of(attacker.fleet, nodes[0]) == (1, int(after))
    first, second = (updates, fewer) if after else (fewer, updates)
    one, two = (bytes_of(attacker.hand(nodes, 0, announcement, first)) for _ in range(2))
    assert one == two
    assert vote_of(attacker.hand(nodes, 0, announcement, first)).members == tuple(first)
    for stage, told in ((Stage.VOTE, second), (Stage.ABORT, {})):
        with pytest.raises(SecureSetRefused, match="voted for another set"):
            attacker.hand(nodes, 0, announcement, told, stage=stage)
    assert journal_of(attacker.fleet, nodes[0]) == (1, 1)


@pytest.mark.parametrize("voted", [False, True], ids=["away at the vote", "voted"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_power_cut_at_a_sum_leaves_one_sum(
    attacker: Attacker, monkeypatch: pytest.MonkeyPatch, *, after: bool, voted: bool
) -> None:
    """The same bytes again, and then the key is gone; the vote that goes with it binds also who was cut off between."""
    nodes = attacker.fleet.nodes
    announcement = attacker.announce(nodes, 1)
    updates = attacker.collect(nodes, announcement)
    certificate = certify(attacker.votes(nodes, announcement, updates, range(0 if voted else 1, 6)))
    with monkeypatch.context() as broken:
        cut(broken, "write_release", after=after)
        with pytest.raises(PowerCut):
            attacker.hand(nodes, 0, announcement, updates, stage=Stage.SUM, certificate=certificate)
    with pytest.raises(SecureSetRefused, match="voted for another set"):
        attacker.hand(nodes, 0, announcement, {i: updates[i] for i in range(5)})
    one, two = (
        bytes_of(attacker.hand(nodes, 0, announcement, updates, stage=Stage.SUM, certificate=certificate))
        for _ in range(2)
    )
    assert one == two
    keep = attacker.fleet.keep(nodes[0])
    assert keep.journal.prekey(announcement.roster[0].key) is None
    keep.journal.close()
    assert journal_of(attacker.fleet, nodes[0]) == (1, 1)


@pytest.mark.parametrize("step", ["write_vote", "erase_prekey"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_power_cut_at_giving_up_leaves_the_round_given_up_and_its_key_erased(
    attacker: Attacker, monkeypatch: pytest.MonkeyPatch, step: str, *, after: bool
) -> None:
    """At the latest when the coordinator asks again."""
    nodes = attacker.fleet.nodes
    announcement = attacker.announce(nodes, 1)
    updates = attacker.collect(nodes, announcement)
    with monkeypatch.context() as broken:
        cut(broken, step, after=after)
        with pytest.raises(PowerCut):
            attacker.abort(nodes, announcement, [0])
    one, two = (attacker.abort(nodes, announcement, [0]) for _ in range(2))
    assert one == two
    keep = attacker.fleet.keep(nodes[0])
    assert keep.journal.prekey(announcement.roster[0].key) is None
    keep.journal.close()
    with pytest.raises(SecureSetRefused, match="gave the round up"):
        attacker.hand(nodes, 0, announcement, updates)
    assert journal_of(attacker.fleet, nodes[0]) == (1, 1)


# --- a journal that is damaged or lost --------------------------------------------------------------------------------


def overwritten(path: Path) -> None:
    """Nonsense of the same length."""
    path.write_bytes(b"nonsense" * (path.stat().st_size // 8))


def beyond_its_first_page(path: Path) -> None:
    """As a card does that loses blocks."""
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xff" * (len(data) - 4096))


def emptied(path: Path) -> None:
    """As a file system does that lost the data and kept the name."""
    path.write_bytes(b"")


@pytest.mark.parametrize("spoil", [overwritten, beyond_its_first_page, emptied, Path.unlink])
def test_a_device_whose_journal_is_damaged_or_lost_says_nothing_more(
    attacker: Attacker, spoil: Callable[[Path], None]
) -> None:
    """It cannot know any more what it voted for or sent: no update, no vote, no sum, no new keys."""
    nodes = attacker.fleet.nodes
    announcement, later = attacker.announce(nodes, 1), attacker.announce(nodes, 2)
    updates = attacker.collect(nodes, announcement)
    certificate = certify(attacker.votes(nodes, announcement, updates, range(6)))
    calls = len(attacker.fleet.calls)
    spoil(attacker.fleet.home(nodes[0]).folder / "secure.db")
    for _ in range(2):
        for ask in (
            lambda: attacker.train(nodes[0], announcement),
            lambda: attacker.train(nodes[0], later),
            lambda: attacker.hand(nodes, 0, announcement, {i: updates[i] for i in range(5)}),
            lambda: attacker.abort(nodes, later, [0]),
            lambda: attacker.hand(nodes, 0, announcement, updates, stage=Stage.SUM, certificate=certificate),
            lambda: attacker.fleet.deliver(nodes[0], attacker.query(nodes[0], Stage.PREKEYS, {"count": 1})),
        ):
            with pytest.raises(SecureStateLost):
                ask()
    assert len(attacker.fleet.calls) == calls


# --- one device against all others ------------------------------------------------------------------------------------

NO_SECRET = [bytes(32), b"\1" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f", b"\xed" + b"\xff" * 30 + b"\x7f"]
"""Points of small order, 0, 1, −1 and p: whoever agrees with one of them on a key agrees on zero."""


@pytest.mark.parametrize("key", NO_SECRET, ids=bytes.hex)
def test_a_device_whose_keys_agree_on_nothing_secret_does_not_stop_the_others(tmp_path: Path, key: bytes) -> None:
    """It is left out by name before anything is announced."""
    fleet = SecureFleet(tmp_path, 5)
    *others, odd = fleet.nodes
    identity = public_der(fleet.keys[4].public_key())
    sound = X25519PrivateKey.generate().public_key().public_bytes_raw()

    def give(node: int, stage: str, _message: Message) -> Message | None:
        if (node, stage) != (odd, Stage.PREKEYS):
            return None
        batch = PrekeyBatch.made(fleet.keys[4], identity, [sound, key])
        return Message(parcels.answer(Stage.PREKEYS, batch=batch.packed), reply_to=Message(RecordDict(), node, "query"))

    fleet.up = give
    (reply,) = fleet.grid().send_and_receive(instructions(fleet, BASE), timeout=100)
    check(reply, others)
    (refused,) = fleet.told("secure-refused")
    assert (refused["device"], refused["error"]["code"]) == (f"{odd:016x}", "secure-message-malformed")


def test_a_device_that_cannot_seal_a_box_to_a_member_names_that_member(attacker: Attacker) -> None:
    """It is no fault of its app."""
    fleet = attacker.fleet
    announcement = attacker.announce(fleet.nodes, 1)
    identity = public_der(fleet.keys[3].public_key())
    (odd,) = PrekeyBatch.made(fleet.keys[3], identity, [bytes(32)]).prekeys()
    roster = (*announcement.roster[:3], odd, *announcement.roster[4:])
    with pytest.raises(RosterInvalid, match=f"{fleet.nodes[3]:016x} agrees on nothing secret"):
        attacker.train(fleet.nodes[0], announcement.changed(roster=roster))
    assert journal_of(fleet, fleet.nodes[0]) == (0, 0)


# --- what the review of this layer found ------------------------------------------------------------------------------


def test_a_device_joins_no_group_smaller_than_it_wants(attacker: Attacker) -> None:
    """The coordinator forms the groups: with two colluders, one of four would be one victim and one other."""
    nodes = attacker.fleet.nodes
    announcement = attacker.announce(nodes[:4], 1)
    content = instructions(attacker.fleet, number=1)[0].content
    mod = SecureMod(Keep(replace(attacker.fleet.home(nodes[0]), least=5)))
    with pytest.raises(SecureParametersRefused, match="joins none of under 5"):
        mod(bound(content, announcement, nodes[0]), context_of(nodes[0]), attacker.fleet.app)
    assert not attacker.fleet.calls


def bound(content: RecordDict, announcement: Any, node: int, group_id: str = "") -> Message:  # noqa: ANN401
    """An instruction with its message 1."""
    own = ConfigRecord({"stage": Stage.UPDATE, parcels.MESSAGE_1: signed_blob(announcement)})
    return Message(RecordDict({**dict(content), SECAGG: own}), node, "train", group_id=group_id)


def context_of(node: int, run_id: int = 1) -> Context:
    """A device's context."""
    return Context(run_id=run_id, node_id=node, node_config={}, state=RecordDict(), run_config={})


def test_what_an_app_can_read_beside_its_records_is_bound_or_the_same_for_all(attacker: Attacker) -> None:
    """Another group id is another instruction; times, ids and the run's number are the layer's own."""
    nodes = attacker.fleet.nodes
    announcement = attacker.announce(nodes, 1)
    content = instructions(attacker.fleet, number=1)[0].content
    seen: list[tuple[Any, ...]] = []

    def app(message: Message, context: Context) -> Message:
        meta = message.metadata
        seen.append((meta.message_id, meta.ttl, meta.group_id, context.run_id))
        return attacker.fleet.app(message, context)

    for number, node in enumerate(nodes[:3]):
        message = bound(content, announcement, node)
        message.metadata.ttl = 10.0 + number
        SecureMod(Keep(attacker.fleet.home(node)))(message, context_of(node, run_id=number), app)
    assert len(seen) == 3
    assert len(set(seen)) == 1
    with pytest.raises(InstructionDiffers):
        SecureMod(Keep(attacker.fleet.home(nodes[3])))(
            bound(content, announcement, nodes[3], group_id="1000000"), context_of(nodes[3]), app
        )


def test_the_called_app_and_the_devices_own_number_are_bound_where_the_device_knows_them(attacker: Attacker) -> None:
    """On Argosy's own transport."""
    nodes = attacker.fleet.nodes
    content = instructions(attacker.fleet, number=1)[0].content
    digests = [
        instruction_digest("train", content, app=app_digest(b"d" * 32, name), run_config={}) for name in ("a:b", "a:c")
    ]
    announcement = attacker.announce(nodes, 1, instruction=digests[0])
    message = bound(content, announcement, nodes[0])
    home = attacker.fleet.home(nodes[0])
    for name, node in (("a:c", nodes[0]), ("a:b", nodes[1])):
        mod = SecureMod(Keep(home), app=app_digest(b"d" * 32, name), own_node=True)
        with pytest.raises(InstructionDiffers):
            mod(message, context_of(node), attacker.fleet.app)
    mod = SecureMod(Keep(home), app=app_digest(b"d" * 32, "a:b"), own_node=True)
    assert mod(message, context_of(nodes[0]), attacker.fleet.app).has_content()


def test_a_metric_that_one_device_alone_has_is_in_no_sum(attacker: Attacker) -> None:
    """A longer list, or another name: holders refuse the set."""
    nodes = attacker.fleet.nodes
    announcement = attacker.announce(nodes, 1)
    updates = attacker.collect(nodes, announcement)
    header = Header.parse(header_of(updates[2]).header, peer="it")
    odd = header.changed(slots=(*header.slots, ("secret", -1)))
    made = RecordDict(dict(updates[2].content))
    signed = SignedHeader.made(attacker.fleet.keys[2], odd)
    made[SECAGG] = ConfigRecord({"stage": Stage.UPDATE, "header": signed.packed})
    updates[2] = Message(made, reply_to=Message(RecordDict(), nodes[2], "train"))
    with pytest.raises(SecureSetRefused, match="other names or numbers of metrics"):
        attacker.hand(nodes, 0, announcement, updates)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), 2.0**31], ids=str)
def test_a_metric_that_cannot_be_summed_leaves_its_device_out(tmp_path: Path, odd: float) -> None:
    """It would be shown for the others alone, who might be one."""
    fleet = SecureFleet(tmp_path, 5)

    def app(message: Message, context: Context) -> Message:
        reply = trained(message, context)
        if context.node_id == fleet.nodes[0]:
            reply.content.metric_records["metrics"]["loss"] = odd
        return reply

    fleet.app = app
    (reply,) = fleet.grid().send_and_receive(instructions(fleet, BASE), timeout=100)
    check(reply, fleet.nodes[1:])
    (group,) = fleet.told("secure-group")
    assert [error["code"] for error in group["left_out"].values()] == ["reply-invalid"]


def test_an_app_that_exits_tells_nothing_but_that(tmp_path: Path) -> None:
    """`sys.exit` with words in it is no way out for them."""
    fleet = SecureFleet(tmp_path, 5)

    def app(message: Message, context: Context) -> Message:
        if context.node_id == fleet.nodes[0]:
            raise SystemExit("the patient's name is Alice")
        return trained(message, context)

    fleet.app = app
    fleet.grid().send_and_receive(instructions(fleet, BASE), timeout=100)
    (group,) = fleet.told("secure-group")
    (error,) = group["left_out"].values()
    assert "SystemExit" in error["message"]
    assert "Alice" not in str(fleet.events)
