"""A part of a model, run by the coordinator for a device: the form of the request (docs/protocol.md, "By HTTPS").

    POST /v1/infer/{name}/{version}?from={tensor}   its bytes, C order, little-endian, with X-Dtype and X-Shape
    POST /v1/infer                                  any bytes: they are counted and forgotten; a device measures by it

No numpy here: the coordinator's daemon checks requests too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from argosy_common.artefact.dtypes import SIZES
from argosy_common.errors import InputInvalid

PATH = "/v1/infer"
MAX_BODY = 16 * 1024 * 1024
MAX_DIMENSIONS = 8
MAX_BATCH = 1024
MAX_TENSOR = 256
"""Characters of a tensor's name."""
MAX_DEADLINE_MS = 60_000.0
DTYPE, SHAPE, DEADLINE, RUN = "X-Dtype", "X-Shape", "X-Deadline-Ms", "X-Run-Ms"
"""Headers. An answer has the first two, and how many milliseconds running took."""


def infer_path(name: str, version: int, tensor: str) -> str:
    """Return the path and query of a request that goes on from a tensor."""
    return f"{PATH}/{name}/{version}?from={quote(tensor, safe='')}"


@dataclass(frozen=True)
class TensorForm:
    """What bytes mean."""

    dtype: str
    shape: tuple[int, ...]

    def headers(self) -> dict[str, str]:
        """Return the headers that say so."""
        return {DTYPE: self.dtype, SHAPE: ",".join(map(str, self.shape))}

    @property
    def size(self) -> int:
        """How many bytes there must be."""
        return math.prod(self.shape) * SIZES[self.dtype]

    @classmethod
    def parse(cls, headers: Mapping[str, str], *, model: str) -> TensorForm:
        """Read the headers, whose names are looked up as they are or in small letters.

        Raises:
            InputInvalid: they say nothing that can be meant.
        """
        dtype, text = (headers.get(name) or headers.get(name.lower()) or "" for name in (DTYPE, SHAPE))
        if dtype not in SIZES:
            raise InputInvalid(model=model, why=f"its {DTYPE} is none of {', '.join(SIZES)}")
        parts = text.split(",")
        numbers = all(part.isascii() and part.isdecimal() and 0 < len(part) < 10 for part in parts)
        if not numbers or len(parts) > MAX_DIMENSIONS:
            raise InputInvalid(model=model, why=f"its {SHAPE} is no list of 1 to {MAX_DIMENSIONS} numbers")
        return cls(dtype, tuple(map(int, parts)))


def parse_deadline(text: str | None, *, model: str) -> float:
    """Return the seconds that a request has; the most that one may have where it says nothing.

    Raises:
        InputInvalid: it is no number of milliseconds.
    """
    if text is None:
        return MAX_DEADLINE_MS / 1000.0
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 < found <= MAX_DEADLINE_MS:  # NaN is not either
        raise InputInvalid(model=model, why=f"its {DEADLINE} is no number of 0 to {MAX_DEADLINE_MS:g}")
    return found / 1000.0
