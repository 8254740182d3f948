"""What a codec is: one flat float32 vector to bytes and back (specs/codecs.md).

Codecs are pure: they take the values and the randomness, and touch no clock, file, socket or Flower. A codec's payload
has no header of its own; `frame` names the codec and the size, and guards the bytes with a checksum.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]

CHUNK = 1 << 17
"""Coordinates that are worked on at a time, so that buffers stay in cache."""


class Codec(ABC):
    """One codec with its parameter, such as `eden:2`. Stateless; safe to use from any thread.

    Attributes:
        kind: the name without the parameter.
        form: how the name is written, for people, such as `eden:<bits, 1 to 4>`; empty where it is just the kind.
        feedback: what encoding loses is to be kept by the sender and added to its next update.
        sparse: most coordinates of an update decode to zero, so that no coordinate-wise order statistic may be taken.
        linear: only sums of payloads made under one shared state of the round decode (the ring codec).
    """

    kind: ClassVar[str]
    form: ClassVar[str] = ""
    feedback: ClassVar[bool] = False
    sparse: ClassVar[bool] = False
    linear: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The canonical name in run configuration: the kind, and a colon and the parameter where there is one."""
        return self.kind

    @classmethod
    def parse(cls, parameter: str | None) -> Self:
        """Return the codec for what stands after the colon (None where there is no colon).

        Raises:
            ValueError: no such parameter; the text says which there are. By default there is none at all.
        """
        if parameter is not None:
            raise ValueError("it takes no parameter")
        return cls()

    @abstractmethod
    def encode(self, values: Vector, rng: np.random.Generator) -> bytes:
        """Return the payload of `values`.

        Args:
            values: shape (d,), C-contiguous, any d ≥ 0. Left as they are.
            rng: the sender's private randomness.

        Raises:
            ValueError: NaN or infinity among the values, or values too large for the codec.
        """

    @abstractmethod
    def decode(self, payload: memoryview, size: int) -> Iterator[Vector]:
        """Return the values, in order, as consecutive chunks of at most `CHUNK` coordinates, `size` in all.

        The whole payload is checked before the first chunk is made, and no memory is taken by what it claims: all
        follows from `size`, which the receiver knows. A chunk may be a buffer that the next step overwrites. Every
        value is finite, whatever the payload.

        Raises:
            ValueError: the payload is not one for `size` values; raised at the call or at the first step.
        """

    def __repr__(self) -> str:
        """Show the name."""
        return f"<codec {self.name}>"
