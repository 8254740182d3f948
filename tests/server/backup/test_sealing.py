"""Sealed files open with their passphrase, whole and in order, or not at all."""

from __future__ import annotations

import io

import pytest

from argosy_server.backup import sealing
from argosy_server.backup.sealing import MAGIC, PIECE, TAG, Opener, SealBroken, Sealer

SALT = bytes(range(16))
HEAD = len(MAGIC) + 16


@pytest.fixture(autouse=True)
def _cheap_guesses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "COST", 2**4)


def sealed(data: bytes, step: int = 700_000) -> bytes:
    stream = io.BytesIO()
    with Sealer(stream, b"secret", SALT) as sealer:
        for start in range(0, len(data), step):
            sealer.write(data[start : start + step])
    return stream.getvalue()


def opened(data: bytes, passphrase: bytes = b"secret") -> bytes:
    stream = io.BytesIO(data)
    assert stream.read(len(MAGIC)) == MAGIC
    return io.BufferedReader(Opener(stream, passphrase)).read()


@pytest.mark.parametrize("length", [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 2 * PIECE + 5])
def test_what_was_sealed_opens(length: int) -> None:
    data = bytes(i % 251 for i in range(length))
    there = sealed(data)
    assert len(there) == HEAD + length + max(1, -(-length // PIECE)) * TAG
    assert opened(there) == data


def test_another_passphrase_does_not_open_it() -> None:
    with pytest.raises(SealBroken):
        opened(sealed(b"x"), b"Secret")


THREE = b"a" * PIECE + b"b" * PIECE + b"c"
WHOLE = PIECE + TAG


@pytest.mark.parametrize(
    "harm",
    [
        lambda s: s[:-1],
        lambda s: s + b"\0",
        lambda s: s[: HEAD + WHOLE],  # cut between two pieces
        lambda s: s[: HEAD + 2 * WHOLE],
        lambda s: s[:HEAD],
        lambda s: s[: HEAD - 1],
        lambda s: s[:HEAD] + s[HEAD + WHOLE :],  # the first is missing
        lambda s: s[:HEAD] + s[HEAD + WHOLE : HEAD + 2 * WHOLE] + s[HEAD : HEAD + WHOLE] + s[HEAD + 2 * WHOLE :],
        lambda s: s[: HEAD + WHOLE] + s[HEAD : HEAD + WHOLE] + s[HEAD + WHOLE :],
        lambda s: s[: HEAD + 5] + bytes([s[HEAD + 5] ^ 1]) + s[HEAD + 6 :],
        lambda s: s[: HEAD - 1] + bytes([s[HEAD - 1] ^ 1]) + s[HEAD:],  # the salt
    ],
)
def test_a_sealed_file_that_changed_does_not_open(harm: object) -> None:
    with pytest.raises(SealBroken):
        opened(harm(sealed(THREE)))  # type: ignore[operator]
