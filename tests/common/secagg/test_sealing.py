"""Boxes open for the one holder and round they are for; signatures hold for the one purpose they were made for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from argosy_common.prg import Suite
from argosy_common.secagg.messages import PrekeyBatch
from argosy_common.secagg.sealing import (
    BoxAddress,
    fingerprint,
    public_der,
    raw_public,
    seal,
    sign,
    signed,
    unseal,
    verifying_key,
)

CLIENT = X25519PrivateKey.from_private_bytes(bytes(range(32)))
HOLDER = X25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
ADDRESS = BoxAddress(sid=b"s" * 32, client=b"c" * 32, holder=b"h" * 32)


@pytest.mark.parametrize("suite", Suite)
def test_a_box_opens_for_its_holder(suite: Suite) -> None:
    """And holds what was put in."""
    box = seal(suite, CLIENT, raw_public(HOLDER), ADDRESS, b"a share")
    assert unseal(suite, HOLDER, raw_public(CLIENT), ADDRESS, box) == b"a share"


@pytest.mark.parametrize("suite", Suite)
@pytest.mark.parametrize("part", ["sid", "client", "holder"])
def test_a_box_opens_under_no_other_address(suite: Suite, part: str) -> None:
    """Its key binds the round and both identities."""
    box = seal(suite, CLIENT, raw_public(HOLDER), ADDRESS, b"a share")
    with pytest.raises(ValueError, match="does not open"):
        unseal(suite, HOLDER, raw_public(CLIENT), replace(ADDRESS, **{part: b"x" * 32}), box)


def test_a_box_opens_with_no_other_key_and_not_when_changed() -> None:
    """Whichever byte it is."""
    box = seal(Suite.AES, CLIENT, raw_public(HOLDER), ADDRESS, b"a share")
    other = X25519PrivateKey.from_private_bytes(bytes(range(2, 34)))
    for key, ephemeral, changed in (
        (other, raw_public(CLIENT), box),
        (HOLDER, raw_public(other), box),
        (HOLDER, raw_public(CLIENT), box[:-1]),
        (HOLDER, raw_public(CLIENT), bytes([box[0] ^ 1]) + box[1:]),
    ):
        with pytest.raises(ValueError, match="does not open"):
            unseal(Suite.AES, key, ephemeral, ADDRESS, changed)


def test_a_key_that_agrees_on_nothing_secret_is_refused() -> None:
    """The all-zero point, whose agreement everybody knows."""
    with pytest.raises(ValueError, match=r".*"):
        seal(Suite.AES, CLIENT, bytes(32), ADDRESS, b"a share")
    with pytest.raises(ValueError, match=r".*"):
        unseal(Suite.AES, HOLDER, bytes(32), ADDRESS, bytes(64))


def test_a_signature_holds_for_its_purpose_and_parts_only() -> None:
    """And parts cannot be shifted into one another."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key()
    signature = sign(key, "a purpose", b"one", b"two", 3)
    assert signed(public, signature, "a purpose", b"one", b"two", 3)
    for purpose, parts in (
        ("another", (b"one", b"two", 3)),
        ("a purpose", (b"onet", b"wo", 3)),
        ("a purpose", (b"one", b"two")),
        ("a purpose", (b"one", b"two", 4)),
    ):
        assert not signed(public, signature, purpose, *parts)
    assert not signed(public, b"no signature", "a purpose", b"one", b"two", 3)


def test_public_keys_of_other_kinds_and_forms_are_refused() -> None:
    """A second form of the same key would give a device two fingerprints."""
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    der = public_der(key)
    assert public_der(verifying_key(der)) == der
    assert len(fingerprint(der)) == 32
    for odd in (b"", der[:-1], der + b"\0", public_der(ec.generate_private_key(ec.SECP384R1()).public_key())):
        with pytest.raises(ValueError, match="the public key"):
            verifying_key(odd)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 32, 33, 256])
def test_every_key_of_a_batch_holds_under_its_one_signature(count: int) -> None:
    """At its own place only."""
    holder = ec.generate_private_key(ec.SECP256R1())
    batch = PrekeyBatch.made(holder, public_der(holder.public_key()), [bytes([i % 256]) * 32 for i in range(count)])
    prekeys = PrekeyBatch.parse(batch.packed, peer="a device").prekeys()
    assert all(each.holds() for each in prekeys)
    assert [each.key for each in prekeys] == list(batch.keys)
    other = public_der(ec.generate_private_key(ec.SECP256R1()).public_key())
    last = prekeys[-1]
    changes: list[dict[str, object]] = [{"key": bytes(range(32))}, {"identity": other}]
    if count > 1:
        changes += [{"index": last.index ^ 1}, {"path": last.path[:-1]}]
    if count < 128:
        changes += [{"index": last.index + 128}, {"path": (*last.path, bytes(32))}]
    for change in changes:
        assert not last.changed(**change).holds()
