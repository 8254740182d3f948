"""A record of arrays in a reply, against the model that was sent: updates to sum up, or arrays as the app made them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord

from argosy_common.codec.base import CHUNK
from argosy_common.errors import ArraysChanged
from argosy_common.flower.codec.frames import decoded
from argosy_common.flower.codec.groups import Group, in_order_of, moved, same_kind
from argosy_common.flower.codec.mean import Chunks
from argosy_common.flower.codec.plan import code_name


@dataclass(frozen=True)
class ReplyPart:
    """A record of arrays of a reply, against the model that was sent.

    `omitted` are the arrays that its codes should hold and do not, or None where the record came as it is.

    Raises, from all it does:
        CodeMalformed: its codes are not what they claim to be.
        ArraysChanged: an array has another shape than it was sent with.
    """

    record: ArrayRecord
    base: ArrayRecord
    groups: Sequence[Group]
    omitted: Sequence[str] | None
    device: str

    def update(self) -> tuple[Chunks, dict[str, Array], tuple[str, ...]]:
        """Return its updates chunk by chunk, its exact arrays, and what it omits."""
        if self.omitted is not None:
            names = {member.name for group in self.groups for member in group.members}
            codes = decoded(self.record, self.groups, peer=self.device)
            return codes, self._checked(self._exact()), tuple(name for name in self.omitted if name in names)
        fits = {name for name, it in self.record.items() if name in self.base and same_kind(it, self.base[name])}
        members = [member.name for group in self.groups for member in group.members]
        exact = {name: array for name, array in self.record.items() if name not in members or name not in fits}
        return self._differences(fits), self._checked(exact), tuple(name for name in members if name not in fits)

    def whole(self) -> ArrayRecord:
        """Return the record with its arrays in full."""
        updates, exact, omitted = self.update()
        vectors = [np.zeros(group.size, np.float32) for group in self.groups]
        for number, offset, chunk in updates:
            vectors[number][offset : offset + len(chunk)] = chunk
        coded = {
            member.name: moved(self.base[member.name], member, vector)
            for group, vector in zip(self.groups, vectors, strict=True)
            for member in group.members
            if member.name not in omitted
        }
        return in_order_of(self.base, {**coded, **exact})

    def _exact(self) -> dict[str, Array]:
        codes = {code_name(number) for number in range(len(self.groups))}
        return {name: array for name, array in self.record.items() if name not in codes}

    def _checked(self, exact: dict[str, Array]) -> dict[str, Array]:
        for name, array in exact.items():
            base = self.base.get(name)
            opaque = array.dtype == "uint8" and len(array.shape) == 1  # tree ensembles grow
            if base is not None and not opaque and tuple(array.shape) != tuple(base.shape):
                found, expected = list(array.shape), list(base.shape)
                raise ArraysChanged(device=self.device, array=name, found=found, expected=expected)
        return exact

    def _differences(self, fits: set[str]) -> Chunks:
        for number, group in enumerate(self.groups):
            for member in group.members:
                if member.name in fits:
                    new, old = (it[member.name].numpy().reshape(-1) for it in (self.record, self.base))
                    for start in range(0, member.size, CHUNK):
                        part = slice(start, start + CHUNK)
                        yield number, member.offset + start, (new[part] - old[part]).astype(np.float32, copy=False)
