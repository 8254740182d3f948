"""Pictures of digits, 8 by 8, shared out unevenly among devices.

By default the pictures are made here from a seed: digits of a small font, moved, slanted, dimmed and made noisy. Every
device makes the same pool and keeps its own part, so the app needs no file. A file of real handwritten digits, as
`fetch_digits.py` writes it, takes the pool's place.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CLASSES, SIDE = 10, 8
PIXELS = SIDE * SIDE
MADE_PER_CLASS = 180  # as many as the real set has
TEST_SHARE = 5  # a fifth of the pool is for the central test
HELD_OUT_SHARE = 5  # and a fifth of a device's part for its own

# Each digit as six rows of four pixels, in hexadecimal.
FONT = ("699996", "262227", "69124f", "69219e", "26af22", "f8e19e", "68e996", "f12444", "696996", "699716")


class Pictures(NamedTuple):
    """Pictures (n, 64) as float32 from 0 to 1, and the digits they show (n,) as int64."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]

    @property
    def size(self) -> int:
        """How many pictures."""
        return len(self.labels)

    def part(self, chosen: NDArray[np.int64]) -> Pictures:
        """The pictures at these indices."""
        return Pictures(self.images[chosen], self.labels[chosen])


class Share(NamedTuple):
    """One device's pictures: to train on, and held out to evaluate on."""

    train: Pictures
    held_out: Pictures


@lru_cache(maxsize=1)
def pool(data: str, seed: int) -> Pictures:
    """All pictures, shuffled: of the file `data`, or made from the seed where it is empty."""
    rng = np.random.default_rng(seed)
    pictures = read(Path(data)) if data else made(rng)
    return pictures.part(rng.permutation(pictures.size))


def test_pictures(data: str, seed: int) -> Pictures:
    """The pool's first fifth, which no device has."""
    pictures = pool(data, seed)
    return pictures.part(np.arange(pictures.size // TEST_SHARE))


@lru_cache(maxsize=2)
def share(data: str, seed: int, partition: int, partitions: int, skew: float) -> Share:
    """One device's part of the pool, with its own mixture of digits: the lower `skew`, the more uneven.

    Raises ValueError for a partition that is not one of them.
    """
    if not 0 <= partition < partitions:
        raise ValueError(f"partition {partition} is not one of 0 to {partitions - 1}")
    pictures = pool(data, seed)
    rng = np.random.default_rng((seed, partitions))
    mine = []
    for digit in range(CLASSES):
        indices = np.flatnonzero(pictures.labels == digit)
        indices = indices[indices >= pictures.size // TEST_SHARE]
        portions = np.cumsum(rng.dirichlet(np.full(partitions, skew)))
        mine.append(np.split(indices, np.rint(portions[:-1] * len(indices)).astype(int))[partition])
    chosen = np.random.default_rng((seed, partition)).permutation(np.concatenate(mine))
    held_out = len(chosen) // HELD_OUT_SHARE
    return Share(pictures.part(chosen[held_out:]), pictures.part(chosen[:held_out]))


def made(rng: np.random.Generator) -> Pictures:
    """Pictures of the font's digits, as if many hands had drawn them."""
    labels = np.repeat(np.arange(CLASSES), MADE_PER_CLASS)
    images = np.zeros((len(labels), SIDE, SIDE), np.float32)
    for image, label in zip(images, labels, strict=True):
        top, left, slant = rng.integers(0, 3), rng.integers(2, 4), rng.integers(-1, 1)
        for row, code in enumerate(FONT[label]):
            shift = left + (slant if row < 2 else 0)
            image[top + row, shift : shift + 4] = [int(code, 16) >> bit & 1 for bit in (3, 2, 1, 0)]
    images *= rng.uniform(0.6, 1.0, images.shape)
    images += rng.normal(0.0, 0.1, images.shape).astype(np.float32)
    return Pictures(images.clip(0.0, 1.0).reshape(-1, PIXELS), labels.astype(np.int64))


def read(path: Path) -> Pictures:
    """Real digits from a file.

    Raises FileNotFoundError, which says how to get them, or ValueError for a wrong shape.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no digits at {path}: run `python fetch_digits.py FILE` first, or leave `data` empty")
    with np.load(path, allow_pickle=False) as file:
        images, labels = file["images"], file["labels"]
    if images.shape != (len(labels), PIXELS):
        raise ValueError(f"{path} holds images of shape {images.shape}, not (pictures, {PIXELS})")
    return Pictures(images.astype(np.float32), labels.astype(np.int64))
