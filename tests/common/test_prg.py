"""The generator of masks: fixed by test vectors, uniform, and a key for each purpose."""

from __future__ import annotations

import hashlib
import hmac
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy_common.prg import Elements, KeyStream, Suite, derive, uniform
from argosy_common.statement import encoded

PRIMES = (65521, 251)
SUITES = tuple(Suite)
KEY = bytes(range(32))


def little_endian(elements: Elements) -> bytes:
    """Return elements as bytes that are the same on any machine."""
    return elements.astype(elements.dtype.newbyteorder("<")).tobytes()


@pytest.mark.parametrize(
    ("suite", "stream"),
    [
        (Suite.AES, "dc95c078a2408989ad48a21492842087530f8afbc74536b9a963b4f1c4cb738b"),  # NIST SP 800-38A's cipher
        (Suite.CHACHA, "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"),  # RFC 8439, A.1, vector 1
    ],
)
def test_streams_of_the_zero_key_are_the_published_ones(suite: Suite, stream: str) -> None:
    """The nonce and the counter begin at zero."""
    assert KeyStream(suite, bytes(32)).draw(32).tobytes().hex() == stream


@pytest.mark.parametrize(
    ("suite", "p", "first", "digest"),
    [
        (
            Suite.AES,
            65521,
            [37106, 46592, 18730, 53407, 62377, 27290, 11997, 32887],
            "af39b44de0a47e123ba91ca89dd3123afdc9ffd6c75334dac6e5e5bacf0832b8",
        ),
        (
            Suite.AES,
            251,
            [242, 144, 0, 182, 42, 73, 159, 208],
            "9e1f4fa9f2d05620c8af126f6d93f68cd9c8b658860c53a9570e7fb5d89dd0e8",
        ),
        (
            Suite.CHACHA,
            65521,
            [64825, 32043, 50649, 27161, 48525, 30467, 56504, 18762],
            "05ec10d4054144e216bedf893f9c473b6f26265f8914ff45ac918be187b422dc",
        ),
        (
            Suite.CHACHA,
            251,
            [57, 43, 125, 217, 197, 25, 106, 141],
            "c545379cac4620e7303cdbfbaa8576b968dd38953c28a544099e565d706be5dc",
        ),
    ],
)
def test_elements_are_those_of_the_test_vectors(suite: Suite, p: int, first: list[int], digest: str) -> None:
    """A hundred thousand of them, so that some were rejected, and some in a second draw would show."""
    elements = uniform(suite, KEY, 100_000, p)
    assert elements.dtype == (np.uint8 if p == 251 else np.uint16)
    assert elements[:8].tolist() == first
    assert hashlib.sha256(little_endian(elements)).hexdigest() == digest


def test_a_derived_key_is_that_of_the_test_vector() -> None:
    """HKDF-SHA256 without salt, and its info spelt out here."""
    info = b"\0\0\0\4mask" + b"\0\0\0\3sid" + b"\0\0\0\x08" + bytes(7) + b"\3" + b"\0\0\0\x08" + bytes(7) + b"\7"
    assert encoded("mask", b"sid", 3, 7) == info
    extracted = hmac.digest(bytes(32), b"secret", "sha256")
    expected = hmac.digest(extracted, info + b"\1", "sha256")
    assert derive(b"secret", "mask", b"sid", 3, 7) == expected
    assert expected.hex() == "8de09cbc5a3cf2799e1b34df78c37fe8fbfc07675c8d488bda39da326f34b83f"


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("p", [*PRIMES, 137, 32771])
@pytest.mark.parametrize("count", [0, 1, 2, 1000, 20_001])
def test_elements_are_the_streams_words_without_those_that_are_not_below_p(suite: Suite, p: int, count: int) -> None:
    """Also where half of the words are rejected, and where a first draw does not suffice."""
    words = KeyStream(suite, KEY).draw(8 * count + 64).view("<u1" if p <= 256 else "<u2")
    expected = [word for word in words.tolist() if word < p][:count]
    assert uniform(suite, KEY, count, p).tolist() == expected


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("p", PRIMES)
def test_elements_are_uniform(suite: Suite, p: int) -> None:
    """Chi-square over all values of p = 251, over 1,310 equal stretches of p = 65521 (and the odd value left out)."""
    elements = uniform(suite, KEY, 1_000_000, p).astype(np.int64)
    assert elements.max() == p - 1
    assert elements.min() == 0
    cells = p if p == 251 else 1310
    width = p // cells
    counts = np.bincount(elements[elements < cells * width] // width, minlength=cells)
    expected = counts.sum() / cells
    chi_square = float(np.sum(np.square(counts - expected) / expected))
    assert abs(chi_square - (cells - 1)) < 5 * (2 * (cells - 1)) ** 0.5


@pytest.mark.parametrize("p", [2, 127, 257, 32767])
def test_a_modulus_that_would_reject_most_words_is_refused(p: int) -> None:
    """Rather than drawing for ever."""
    with pytest.raises(ValueError, match="no elements"):
        uniform(Suite.AES, KEY, 10, p)


@pytest.mark.parametrize("suite", SUITES)
def test_a_stream_goes_on_where_it_was(suite: Suite) -> None:
    """Two draws are one."""
    stream = KeyStream(suite, KEY)
    halves = np.concatenate([stream.draw(37), stream.draw(63)])
    assert np.array_equal(halves, KeyStream(suite, KEY).draw(100))


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    """AES would take 16 bytes as well."""
    with pytest.raises(ValueError, match="32 bytes"):
        KeyStream(Suite.AES, bytes(length))


PARTS = st.lists(st.binary(max_size=12) | st.integers(0, 2**64 - 1), max_size=4).map(tuple)


@given(st.lists(st.tuples(st.text(max_size=6), PARTS), min_size=2, max_size=2, unique=True))
def test_distinct_purposes_and_parts_give_distinct_strings(given_: list[tuple[str, tuple[bytes | int, ...]]]) -> None:
    """Except an integer and its own eight bytes, which no purpose has at the same place."""
    one, other = (
        (purpose, tuple(each.to_bytes(8, "big") if isinstance(each, int) else each for each in parts))
        for purpose, parts in given_
    )
    assert (encoded(one[0], *one[1]) == encoded(other[0], *other[1])) is (one == other)
    assert encoded(given_[0][0], *given_[0][1]) == encoded(one[0], *one[1])


def test_distinct_purposes_secrets_and_parts_give_distinct_keys() -> None:
    """Also where the same bytes are cut differently."""
    cuts: list[tuple[bytes | int, ...]]
    cuts = [(), (b"",), (b"ab", b"c"), (b"a", b"bc"), (b"abc",), (0,), (1,), (0, 1), (1, 0)]
    keys = [
        derive(secret, purpose, *parts)
        for secret, purpose, parts in itertools.product((b"one", b"other"), ("share", "mask", "dither"), cuts)
    ]
    assert len(set(keys)) == len(keys)
