"""Which chunks are here: one bit each, least significant first, as `Accept` and `ChunkAck` carry them."""

from __future__ import annotations

from argosy_common.blobs.frames import Layout


class Bitmap:
    """A set of chunk indices below `size`.

    Attributes:
        size: how many chunks there are.
        count: how many of them are in the set.
        upto: the first index that is not in the set; chunks 0 … upto−1 all are.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.count = 0
        self.upto = 0
        self._bits = bytearray(-(-size // 8))

    @classmethod
    def load(cls, size: int, data: bytes) -> Bitmap:
        """Return the set that `data` names; it may be shorter than the blob.

        Raises:
            ValueError: it names chunks that do not exist.
        """
        bitmap = cls(size)
        if len(data) > len(bitmap._bits) or (size % 8 and len(data) == len(bitmap._bits) and data[-1] >> (size % 8)):
            raise ValueError(f"the bitmap names chunks beyond the {size} there are")
        bitmap._bits[: len(data)] = data
        bitmap.count = int.from_bytes(data, "little").bit_count()
        bitmap._advance()
        return bitmap

    def __contains__(self, index: int) -> bool:
        return bool(self._bits[index >> 3] & (1 << (index & 7)))

    @property
    def full(self) -> bool:
        """Whether every chunk is in the set."""
        return self.count == self.size

    def add(self, index: int) -> bool:
        """Put a chunk into the set; return whether it was missing."""
        mask = 1 << (index & 7)
        if self._bits[index >> 3] & mask:
            return False
        self._bits[index >> 3] |= mask
        self.count += 1
        if index == self.upto:
            self._advance()
        return True

    def gaps(self) -> list[tuple[int, int]]:
        """Return the runs of chunks that are not in the set, each as the first one and the one behind the last."""
        found: list[tuple[int, int]] = []
        index = self.upto
        while index < self.size:
            end = index
            while end < self.size and end not in self:
                end += 1
            if end > index:
                found.append((index, end))
            index = end + 1
        return found

    def _advance(self) -> None:
        while self.upto < self.size:
            if not self.upto & 7 and self._bits[self.upto >> 3] == 0xFF:
                self.upto += 8
            elif self.upto in self:
                self.upto += 1
            else:
                break
        self.upto = min(self.upto, self.size)

    def pack(self) -> bytes:
        """Return the wire form, without trailing zeros."""
        return bytes(self._bits).rstrip(b"\0")

    def pack_above(self, limit: int) -> bytes:
        """Return the chunks above `upto` in at most `limit` bytes, bit 0 being chunk `upto`; empty if none."""
        if self.count == self.upto:
            return b""
        first = self.upto >> 3
        window = int.from_bytes(self._bits[first : first + limit], "little") >> (self.upto & 7)
        return window.to_bytes(limit, "little").rstrip(b"\0")


def indices(data: bytes, base: int) -> list[int]:
    """Return the chunks that an acknowledgement's bitmap names, its bit 0 being chunk `base`."""
    return [base + 8 * i + bit for i, byte in enumerate(data) if byte for bit in range(8) if byte >> bit & 1]


def regrid(have: Bitmap, old: Layout, new: Layout) -> Bitmap:
    """Return the chunks of the layout `new` whose bytes all lie in chunks of `old` that are here."""
    if old == new:
        return have
    result = Bitmap(new.count)
    for index in range(new.count):
        first = index * new.chunk // old.chunk
        last = (index * new.chunk + new.length(index) - 1) // old.chunk
        if all(i in have for i in range(first, last + 1)):
            result.add(index)
    return result
