"""The model as the devices have it, version by version: the shadow model of the downlink (specs/codecs.md).

The coordinator keeps what the devices hold, not what the strategy made: it sends codec(new − shadow) and adds what that
decodes to onto the shadow, as the devices do. So what encoding loses in one version is part of the next difference. A
device that missed versions gets the chain of changes since its own, or the whole shadow, whichever is smaller.

Both ends decode the same bytes with the same arithmetic; between processors of different makes the sums may differ in
the last bit of a float32, which is far below what the codec itself leaves out.
"""

from __future__ import annotations

import operator
import secrets
from collections import OrderedDict
from collections.abc import Mapping

import numpy as np
from flwr.app import Array, ArrayRecord

from argosy_common.codec.base import Vector
from argosy_common.flower.codec.frames import code_array, decoded, encoded
from argosy_common.flower.codec.groups import (
    CodecChoice,
    Group,
    Member,
    flatten,
    fp32_size,
    gathered,
    group_arrays,
    restored,
)
from argosy_common.flower.codec.plan import Update, code_name, exact_name, step_name

_US = "the coordinator"


class ModelLine:
    """The versions of one record of arrays. `advance` to the strategy's model, then `update_for` each device."""

    def __init__(self, name: str, choice: CodecChoice, rng: np.random.Generator) -> None:
        """Make a line for the record `name`; nothing is held until the first `advance`."""
        self._name = name
        self._choice = choice
        self._rng = rng
        self._record = ArrayRecord()
        self._arrays: tuple[Array, ...] = ()
        """Those of `_record` when it was taken, to tell a model that came before from a new one."""
        self._groups: list[Group] = []
        self._start_over()

    def _start_over(self) -> None:
        self.line = secrets.token_hex(8)
        self.version = -1
        self._shadow: list[Vector] = []
        self._steps: OrderedDict[int, ArrayRecord] = OrderedDict()
        self._whole: ArrayRecord | None = None

    @property
    def held(self) -> tuple[str, int]:
        """What a device holds that was brought up to date."""
        return self.line, self.version

    def advance(self, record: ArrayRecord) -> None:
        """Go on to the strategy's model `record`; nothing if that is where the line stands.

        Raises:
            UpdateNotFinite: the model holds NaN or infinity; the line stays where it was.
        """
        arrays = tuple(record.values())
        if len(arrays) == len(self._arrays) and all(map(operator.is_, arrays, self._arrays)):
            return
        groups = group_arrays(record, self._choice)
        if list(record) != list(self._record) or _members(groups) != _members(self._groups):
            self._start_over()  # exact arrays may change their dtype, as counters do when a strategy averages them
        step: dict[str, Array] = {}
        changes = [flatten(record, group) for group in groups]
        if self._shadow:
            for number, (group, change, shadow) in enumerate(zip(groups, changes, self._shadow, strict=True)):
                np.subtract(change, shadow, out=change)
                step[code_name(number)] = code_array(encoded(group, change, self._rng, where="of the strategy's model"))
            del changes
            for number, offset, chunk in decoded(step, groups, peer=_US):
                self._shadow[number][offset : offset + len(chunk)] += chunk
        else:
            self._shadow = changes
        self._record, self._arrays, self._groups = record, arrays, groups
        self._whole = None
        self.version += 1
        self._remember(gathered(step))

    def _remember(self, step: ArrayRecord) -> None:
        """Keep the change to this version, and of the earlier ones what is smaller than a whole model."""
        if not self.version:
            return
        self._steps[self.version] = step
        sizes = {version: fp32_size(each) for version, each in self._steps.items()}
        whole, total = fp32_size(self._record), sum(sizes.values())
        while total >= whole and len(self._steps) > 1:
            version, _ = self._steps.popitem(last=False)
            total -= sizes[version]

    def base_for(self, held: tuple[str, int] | None) -> int | None:
        """Return the version from which a device is best brought up to date; None if it gets the whole model."""
        if held is None or held[0] != self.line:
            return None
        missed = range(held[1] + 1, self.version + 1)
        if not all(version in self._steps for version in missed):
            return None
        chain = sum(fp32_size(self._steps[version]) for version in missed)
        return held[1] if chain < fp32_size(self._record) else None

    def update_from(self, base: int | None) -> tuple[Update, dict[str, ArrayRecord]]:
        """Return how to come from `base` to this version, and the records that it takes, none of them copied."""
        update = Update(line=self.line, version=self.version, base=base, codec=self._choice.codec)
        if base is None:
            if self._whole is None:
                self._whole = self._restore()
            return update, {self._name: self._whole}
        if base == self.version:
            return update, {}
        chain = range(base + 1, self.version + 1)
        records = {step_name(self._name, version): self._steps[version] for version in chain}
        exact = self._exact()
        if exact:
            records[exact_name(self._name)] = gathered(exact)
        return update, records

    def _exact(self) -> Mapping[str, Array]:
        coded = {member.name for group in self._groups for member in group.members}
        return {name: array for name, array in self._record.items() if name not in coded}

    def _restore(self) -> ArrayRecord:
        coded = {
            member.name: restored(member, vector)
            for group, vector in zip(self._groups, self._shadow, strict=True)
            for member in group.members
        }
        return gathered({name: coded.get(name, array) for name, array in self._record.items()})


def _members(groups: list[Group]) -> list[tuple[str, tuple[Member, ...]]]:
    return [(group.codec.name, group.members) for group in groups]
