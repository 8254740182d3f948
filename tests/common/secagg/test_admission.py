"""What a device checks of message 1: an honest one passes for all its members, and each defect alone is refused."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from argosy_common.codec.vector import LARGEST
from argosy_common.errors import (
    PeerUnlisted,
    RosterInvalid,
    SecureMessageMalformed,
    SecureParametersRefused,
    SecureSignatureInvalid,
)
from argosy_common.prg import Suite
from argosy_common.secagg.admission import Policy, admit, opened
from argosy_common.secagg.fleet import FleetList, Member
from argosy_common.secagg.messages import Announcement, Prekey, PrekeyBatch, Signed, run_id
from argosy_common.secagg.parameters import Parameters
from argosy_common.secagg.sealing import SigningKey, fingerprint, public_der, sign
from argosy_common.x509 import generate_key

RUN_KEY = generate_key()
RUN_DER = public_der(RUN_KEY.public_key())
KEYS = [generate_key() for _ in range(64)]
PRINTS = [fingerprint(public_der(key.public_key())) for key in KEYS]
OPEN = Policy()
BLOCKS = b"\0\0\x80\x3f" * 2
"""Scales of 1 for the two blocks of 5000 values."""


def member(key: SigningKey, seed: int, *, place: int = 1) -> Prekey:
    """One of three prekeys that a device signed."""
    made = PrekeyBatch.made(key, public_der(key.public_key()), [bytes([seed, number]) * 16 for number in range(3)])
    return made.prekeys()[place]


ROSTER = tuple(member(key, number) for number, key in enumerate(KEYS))


def announced(n: int = 6, p: int = 65521, **changed: Any) -> Announcement:  # noqa: ANN401  (fields of message 1)
    """An honest message 1 for the first n devices, or one with some fields changed."""
    numbers = Parameters.of(min(max(n, 4), 64), 65521)
    fields: dict[str, Any] = {
        "coordinator": RUN_DER, "run": run_id(RUN_DER), "round": 1, "suite": "aes256-ctr", "p": p, "A": n,
        "U": numbers.U, "T": numbers.T, "n_min": numbers.n_min, "size": 5000, "weighting": "powers", "w_cap": 1024,
        "slots": 4, "seed": bytes(32), "scales": BLOCKS, "fleet_version": 0, "deadline_s": 60.0,
        "instruction": bytes(32), "roster": ROSTER[:n],
    }  # fmt: skip
    return Announcement(**{**fields, **changed})


def off_the_curve(der: bytes) -> bytes:
    """A public key whose point is none: its y has another last bit."""
    return der[:-1] + bytes([der[-1] ^ 1])


def refused(announcement: Announcement, error: type[Exception], match: str, policy: Policy = OPEN) -> None:
    """Every member refuses it."""
    for own in {fingerprint(each.identity) for each in announcement.roster}:
        with pytest.raises(error, match=match):
            admit(announcement, own, policy)


# --- the blob ---------------------------------------------------------------------------------------------------------


def blob(announcement: Announcement, key: SigningKey = RUN_KEY, purpose: str = "argosy/secagg/announcement") -> bytes:
    """Message 1 as it travels."""
    return Signed(announcement=announcement.packed, signature=sign(key, purpose, announcement.packed)).packed


def test_a_signed_message_1_opens() -> None:
    """To an equal one, with the same sid."""
    found = opened(blob(announced()))
    assert found == announced()
    assert found.sid == announced().sid


def test_a_message_1_that_its_runs_key_did_not_sign_does_not_open() -> None:
    """Another key, another purpose, other bytes, a run that is another key's."""
    honest = announced()
    signature = Signed.parse(blob(honest), peer="it").signature
    for forged in (
        blob(honest, KEYS[0]),
        blob(honest, purpose="argosy/secagg/update"),
        Signed(announcement=announced(round=2).packed, signature=signature).packed,
        Signed(announcement=honest.packed, signature=bytes(70)).packed,
        blob(announced(run=b"r" * 16)),
        blob(announced(coordinator=public_der(KEYS[0].public_key()))),
        blob(announced(run=run_id(public_der(KEYS[0].public_key())))),
    ):
        with pytest.raises(SecureSignatureInvalid, match="message 1"):
            opened(forged)


def test_what_is_no_signed_message_1_does_not_open() -> None:
    """Not bytes, not signed, signed but none, or by a key that is none of P-256."""
    other = off_the_curve(RUN_DER)
    for odd in (
        None,
        "text",
        b"",
        announced().packed,
        Signed(announcement=b"\x80", signature=bytes(70)).packed,
        Signed(announcement=ROSTER[0].packed, signature=bytes(70)).packed,
        blob(announced(coordinator=b"k" * 91)),
        blob(announced(coordinator=other)),
        blob(announced(coordinator=public_der(ec.generate_private_key(ec.SECP384R1()).public_key()))),
    ):
        with pytest.raises(SecureMessageMalformed):
            opened(odd)


# --- an honest one ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "p"), [(4, 65521), (4, 251), (6, 65521), (32, 251), (64, 65521)])
def test_every_member_admits_an_honest_message_1_at_its_own_place(n: int, p: int) -> None:
    """The numbers are worked out, and the keys read."""
    announcement = announced(n, p)
    for place in range(n):
        found = admit(announcement, PRINTS[place], OPEN)
        assert found.index == place
        assert found.parameters == Parameters.of(n, p)
        assert found.fingerprints == tuple(PRINTS[:n])
        assert [public_der(each) for each in found.identities] == [each.identity for each in announcement.roster]
        assert found.sid == announcement.sid


def test_only_metrics_need_no_scales() -> None:
    """As in `evaluate`."""
    admit(announced(size=0, scales=b""), PRINTS[0], OPEN)


# --- 1 the suite ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("accepted", "suite"), list(product([[], [Suite.AES], [Suite.CHACHA], list(Suite)], Suite)))
def test_the_cipher_is_one_that_the_device_accepts(accepted: Sequence[Suite], suite: Suite) -> None:
    """Its own floor, whatever the others go by."""
    announcement, policy = announced(suite=suite.value), Policy(suites=accepted)
    if suite in accepted:
        admit(announcement, PRINTS[0], policy)
    else:
        refused(announcement, SecureParametersRefused, f"cipher {suite}", policy)


# --- 2 the numbers ----------------------------------------------------------------------------------------------------


def test_of_all_numbers_of_holders_only_those_of_the_specification_pass() -> None:
    """Six members make A = 6, U = 5 and T = 1: no other three numbers up to ten do."""
    passed = []
    for a, u, t in product(range(11), repeat=3):
        try:
            admit(announced(A=a, U=u, T=t), PRINTS[0], OPEN)
        except SecureParametersRefused:
            continue
        passed.append((a, u, t))
    assert passed == [(6, 5, 1)]


@pytest.mark.parametrize("p", [0, 2, 127, 241, 257, 65519, 65537, 2**20 - 3])
def test_another_modulus_is_refused(p: int) -> None:
    """Primes or not: only 251 and 65521 are."""
    refused(announced(p=p), SecureParametersRefused, f"p is {p}")


@pytest.mark.parametrize(("n", "p"), [(1, 65521), (2, 65521), (3, 65521), (33, 251)])
def test_a_group_that_is_too_small_or_too_large_is_refused(n: int, p: int) -> None:
    """Below four there is no T ≥ 1; above what p allows the limbs overflow."""
    numbers = {"U": -(-3 * n // 4), "T": n // 4, "n_min": 256}
    refused(announced(n, p, **numbers), SecureParametersRefused, "has 4 to")


def test_a_group_above_64_is_refused() -> None:
    """As above; its 65th member has a key of its own."""
    more = (*ROSTER, member(generate_key(), 77))
    refused(announced(65, roster=more, U=49, T=16, n_min=33), SecureParametersRefused, "4 to 64 clients, not 65")


@pytest.mark.parametrize("n", [4, 6, 16, 64])
def test_the_fewest_updates_in_a_sum_are_not_fewer_than_the_device_says(n: int) -> None:
    """It may be more; a coordinator that signs less is refused."""
    least = Parameters.of(n, 65521).n_min
    assert least == max(3, n // 4 + 2, -(-n // 2))
    for n_min in range(least):
        with pytest.raises(SecureParametersRefused, match=f"at least {least}"):
            admit(announced(n, n_min=n_min), PRINTS[0], OPEN)
    for n_min in (least, n):
        admit(announced(n, n_min=n_min), PRINTS[0], OPEN)


@pytest.mark.parametrize("least", [0, 4, 5, 6, 7, 64])
def test_a_group_that_is_smaller_than_the_device_wants_is_refused(least: int) -> None:
    """Its own least, whatever the specification allows."""
    announcement, policy = announced(), Policy(least=least)
    if least <= 6:
        admit(announcement, PRINTS[0], policy)
    else:
        refused(announcement, SecureParametersRefused, f"none of under {least}", policy)


# --- 3 the scales -----------------------------------------------------------------------------------------------------


def scale(value: float) -> bytes:
    """Two scales, the second of this value."""
    return struct.pack("<2f", 1.0, value)


@pytest.mark.parametrize(
    "scales",
    [b"", BLOCKS[:4], BLOCKS[:7], BLOCKS + b"\0", BLOCKS * 2, *map(scale, (-1.0, -1e-30, 2 * LARGEST))]
    + [scale(float(odd)) for odd in ("nan", "inf", "-inf")],
    ids=lambda scales: scales.hex() or "none",
)  # fmt: skip
def test_scales_that_do_not_fit_or_are_no_scales_are_refused(scales: bytes) -> None:
    """One a block, not negative, finite and not huge."""
    refused(announced(scales=scales), SecureParametersRefused, "scales")


def test_scales_without_an_update_are_refused() -> None:
    """And an update without scales."""
    refused(announced(size=0), SecureParametersRefused, "scales")
    refused(announced(size=2**30, scales=BLOCKS), SecureParametersRefused, "scales")


# --- 4 who is in it ---------------------------------------------------------------------------------------------------


def test_a_device_or_a_key_that_is_there_twice_is_refused() -> None:
    """The same entry; a device with two keys of its own, which would be two of n_min; two devices with one key."""
    first, second, third, *rest = ROSTER[:6]
    shared = PrekeyBatch.made(KEYS[1], second.identity, [first.key]).prekeys()[0]
    for roster in (
        (first, first, third, *rest),
        (first, member(KEYS[0], 0, place=2), third, *rest),
        (*rest, first, third, member(KEYS[0], 9)),
        (first, shared, third, *rest),
    ):
        refused(announced(roster=roster), RosterInvalid, "in it twice")


def test_a_device_that_is_not_in_it_refuses() -> None:
    """It would mask an update for a group that it cannot see."""
    with pytest.raises(RosterInvalid, match="this device is not in it"):
        admit(announced(), PRINTS[6], OPEN)


# --- 5 who vouches for them -------------------------------------------------------------------------------------------


def listed(places: Sequence[int], version: int = 7) -> Policy:
    """The policy of a device whose operator vouches for these."""
    members = tuple(Member(PRINTS[place], f"board-{place}") for place in places)
    return Policy(fleet=FleetList(version, b"p" * 32, "2026-01-01T00:00:00Z", members, b"d" * 32))


@pytest.mark.parametrize("stranger", range(6))
def test_one_member_that_is_not_listed_is_refused_by_name(stranger: int) -> None:
    """Wherever it stands, itself among them."""
    announcement = announced(fleet_version=7)
    policy = listed([place for place in range(6) if place != stranger])
    refused(announcement, PeerUnlisted, PRINTS[stranger].hex()[:16], policy)
    admit(announcement, PRINTS[0], listed(range(10)))


@pytest.mark.parametrize("version", [0, 6, 8])
def test_another_version_of_the_fleet_list_is_refused(version: int) -> None:
    """Older or newer, or none: all go by the same, or a device that was struck off might still be in it."""
    refused(announced(fleet_version=version), SecureParametersRefused, f"version {version}", listed(range(6)))


def test_without_an_operators_key_the_version_means_nothing() -> None:
    """There is nobody to say otherwise."""
    admit(announced(fleet_version=9), PRINTS[0], OPEN)


# --- 6 whose keys they are --------------------------------------------------------------------------------------------


def _altered(key: bytes) -> bytes:
    return bytes([key[0] ^ 1]) + key[1:]


DEFECTS: dict[str, Callable[[Prekey], Prekey]] = {
    "another key": lambda it: it.changed(key=_altered(it.key)),
    "another's key": lambda it: it.changed(key=member(KEYS[9], 9).key),
    "another's signature": lambda it: it.changed(signature=member(KEYS[9], 9).signature),
    "another's batch": lambda it: member(KEYS[9], 9).changed(identity=it.identity),
    "another place": lambda it: it.changed(index=it.index ^ 1),
    "a place beyond the batch": lambda it: it.changed(index=it.index + 4),
    "a shorter path": lambda it: it.changed(path=it.path[:-1]),
    "a longer path": lambda it: it.changed(path=(*it.path, bytes(32))),
    "another path": lambda it: it.changed(path=(_altered(it.path[0]), *it.path[1:])),
    "no signature": lambda it: it.changed(signature=bytes(70)),
}


@pytest.mark.parametrize("name", DEFECTS)
@pytest.mark.parametrize("place", [0, 5])
def test_a_key_that_its_holder_did_not_sign_is_refused_by_name(name: str, place: int) -> None:
    """Else the coordinator could open the boxes for that holder."""
    roster = list(ROSTER[:6])
    roster[place] = DEFECTS[name](roster[place])
    refused(announced(roster=tuple(roster)), RosterInvalid, f"{PRINTS[place].hex()[:16]} is not signed")


def _raw(key: ec.EllipticCurvePublicKey) -> bytes:
    """The DER of a key whose point is compressed: the same key under another fingerprint."""
    head = public_der(key)[:26]
    point = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    return b"\x30" + bytes([len(head) - 2 - 2 + len(point) + 2]) + head[2:23] + b"\x03" + bytes([len(point) + 1]) + (
        b"\0" + point
    )  # fmt: skip


def _spki(key: ed25519.Ed25519PrivateKey | x25519.X25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


STRANGE = {
    "nonsense": b"k" * 91,
    "Ed25519": _spki(ed25519.Ed25519PrivateKey.generate()),
    "X25519": _spki(x25519.X25519PrivateKey.generate()),
    "P-384": public_der(ec.generate_private_key(ec.SECP384R1()).public_key()),
    "compressed": _raw(KEYS[1].public_key()),
    "trailing bytes": public_der(KEYS[1].public_key()) + b"\0",
    "not on the curve": off_the_curve(public_der(KEYS[1].public_key())),
}


def test_the_compressed_form_is_one_that_libraries_do_read() -> None:
    """So that it is refused for its form, and not for being nonsense."""
    refused(announced(roster=(*ROSTER[:5], ROSTER[5].changed(identity=STRANGE["compressed"]))), RosterInvalid, "form")


@pytest.mark.parametrize("name", STRANGE)
def test_an_identity_that_is_no_key_of_p256_in_its_one_form_is_refused(name: str) -> None:
    """A second form of a device's key would be a second fingerprint of that device."""
    roster = (*ROSTER[:5], ROSTER[5].changed(identity=STRANGE[name]))
    refused(announced(roster=roster), RosterInvalid, fingerprint(STRANGE[name]).hex()[:16])


def test_what_is_cheap_to_check_comes_before_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is looked at for a message 1 that is refused for its numbers, its members or its list."""
    looked: list[Prekey] = []

    def holds(it: Prekey) -> bool:
        looked.append(it)
        return True

    monkeypatch.setattr(Prekey, "holds", holds)
    first, *rest = ROSTER[:6]
    for announcement, policy in (
        (announced(suite="chacha20"), Policy(suites=[Suite.AES])),
        (announced(U=4), OPEN),
        (announced(n_min=2), OPEN),
        (announced(), Policy(least=7)),
        (announced(scales=b""), OPEN),
        (announced(roster=(first, first, *rest[1:])), OPEN),
        (announced(roster=ROSTER[1:7]), OPEN),
        (announced(fleet_version=7), listed(range(5))),
        (announced(fleet_version=6), listed(range(6))),
    ):
        with pytest.raises((SecureParametersRefused, RosterInvalid, PeerUnlisted)):
            admit(announcement, PRINTS[0], policy)
    assert not looked
    admit(announced(), PRINTS[0], OPEN)
    assert len(looked) == 6
