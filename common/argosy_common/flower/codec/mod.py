"""The device's half: a Flower mod, which Argosy's device puts around every client app.

    from argosy_common.flower.codec.mod import codec_mod

    app = ClientApp(mods=[codec_mod])      # on Flower's own SuperNode; on an Argosy device there is nothing to do

Instructions without a plan pass untouched. With one, the app finds the arrays where it always does, whole, and returns
its own; the mod puts the difference on the wire.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict

from argosy_common.codec.base import Vector
from argosy_common.codec.frame import decode_vector
from argosy_common.errors import CodeMalformed, UpdateNotFinite
from argosy_common.flower.codec.frames import code_array, decoded, encoded, not_finite
from argosy_common.flower.codec.groups import CodecChoice, Group, flatten, gathered, group_arrays, restored, same_kind
from argosy_common.flower.codec.held import Held, HeldModel
from argosy_common.flower.codec.plan import (
    InstructionPlan,
    ReplyPlan,
    Update,
    code_name,
    exact_name,
    step_name,
)
from argosy_common.flower.compat import NUMPY_STYPE

CallNext = Callable[[Message, Context], Message]
COORDINATOR = "the coordinator"


class CodecMod:
    """The mod, with its source of randomness: each update is encoded under a seed of its own."""

    def __init__(self, rng: Callable[[], np.random.Generator] = np.random.default_rng) -> None:
        """Make a mod that takes a new generator from `rng` for every update."""
        self._rng = rng

    def __call__(self, message: Message, context: Context, call_next: CallNext) -> Message:
        """Run the app on the arrays in full; return its reply with the arrays encoded, where the plan says so.

        Raises:
            CodecUnknown: a codec that this device does not have.
            CodeMalformed: what the coordinator sent cannot be read.
            UpdateNotFinite: the app returned NaN or infinity; what is kept stays as it was.
        """
        plan = InstructionPlan.taken_from(message.content, peer=COORDINATOR) if message.has_content() else None
        if plan is None:
            return call_next(message, context)
        held = Held.taken_from(context.state)
        try:
            lacks = tuple(name for name in plan.down if not _bring_up_to_date(message.content, name, plan, held))
            if lacks:
                content = RecordDict()
                ReplyPlan(lacks=lacks).put_into(content)
                return Message(content, reply_to=message)
            received = {name: gathered(record) for name, record in message.content.array_records.items()}
            reply = call_next(message, context)
            if plan.up is not None and reply.has_content():
                encoder = _Encoder(CodecChoice(plan.up, plan.arrays), held, self._rng(), f"{context.node_id:016x}")
                encoder.encode(reply.content, received)
            return reply
        finally:
            held.put_into(context.state)


codec_mod = CodecMod()
"""The mod to put on a `ClientApp`."""


# --- down -----------------------------------------------------------------------------------------------------------


def _bring_up_to_date(content: RecordDict, name: str, plan: InstructionPlan, held: Held) -> bool:
    """Put the record `name` into the content, whole, and keep it; False if what it changes is not held here."""
    update = plan.down[name]
    model = held.models.get(name)
    if update.base is None:
        record = content.array_records.get(name)
        if record is None:
            raise CodeMalformed(peer=COORDINATOR, codec=update.codec, why=f"the record '{name}' is missing")
        held.models[name] = HeldModel(update.line, update.version, gathered(record))
        return True
    if model is None or model.line != update.line or not update.base <= model.version <= update.version:
        return False
    steps = {version: content.pop(step_name(name, version), None) for version in _versions(update)}
    exact = content.pop(exact_name(name), None)
    arrays = dict(model.arrays)
    if model.version < update.version:
        wanted = [steps[version] for version in _versions(update) if version > model.version]
        choice = CodecChoice(update.codec, plan.arrays)
        arrays.update(_changed(model.arrays, choice, wanted))
        arrays.update(exact if isinstance(exact, ArrayRecord) else {})
    held.models[name] = HeldModel(update.line, update.version, gathered(arrays))
    content[name] = gathered(arrays)
    return True


def _versions(update: Update) -> range:
    """Return the versions that the chain of an update leads through, its base excluded."""
    return range((update.base or 0) + 1, update.version + 1)


def _changed(arrays: ArrayRecord, choice: CodecChoice, steps: Sequence[object]) -> dict[str, Array]:
    """Return the arrays that a chain of changes leads to, those of the groups."""
    groups = group_arrays(arrays, choice)
    vectors = [flatten(arrays, group) for group in groups]
    for step in steps:
        if not isinstance(step, ArrayRecord):
            raise CodeMalformed(peer=COORDINATOR, codec=choice.codec, why="a change of the chain is missing")
        for number, offset, chunk in decoded(step, groups, peer=COORDINATOR):
            vectors[number][offset : offset + len(chunk)] += chunk
    return {
        member.name: restored(member, vector)
        for group, vector in zip(groups, vectors, strict=True)
        for member in group.members
    }


# --- up -------------------------------------------------------------------------------------------------------------


class _Encoder:
    """Encodes the arrays of one reply."""

    def __init__(self, choice: CodecChoice, held: Held, rng: np.random.Generator, device: str) -> None:
        self._choice = choice
        self._held = held
        self._rng = rng
        self._device = device

    def encode(self, content: RecordDict, received: Mapping[str, ArrayRecord]) -> None:
        """Replace the records of arrays in `content` by their codes, and say so."""
        omitted: dict[str, tuple[str, ...]] = {}
        residuals: dict[str, Array] = {}
        for name, record in list(content.array_records.items()):
            base = received.get(name, next(iter(received.values())) if len(received) == 1 else None)
            if base is not None:
                content[name], omitted[name] = self._encode_record(name, record, base, residuals)
        self._held.residuals.update(residuals)  # now that nothing can be refused any more
        ReplyPlan(omitted=omitted).put_into(content)

    def _encode_record(
        self, name: str, record: ArrayRecord, base: ArrayRecord, residuals: dict[str, Array]
    ) -> tuple[ArrayRecord, tuple[str, ...]]:
        codes: dict[str, Array] = {}
        exact = dict(record)
        omitted: list[str] = []
        for number, group in enumerate(group_arrays(base, self._choice)):
            update = self._update(exact, base, group, omitted)
            codes[code_name(number)] = self._code(f"{name}/{group.codec.name}", group, update, residuals)
        for each, array in exact.items():
            self._require_finite(each, array)
        return gathered({**exact, **codes}), tuple(omitted)

    def _update(self, arrays: dict[str, Array], base: ArrayRecord, group: Group, omitted: list[str]) -> Vector:
        """Return a group's arrays − those received, and take them out of `arrays`; zero where the app returned none."""
        update = np.zeros(group.size, np.float32)
        for member in group.members:
            array = arrays.get(member.name)
            if array is None or not same_kind(array, base[member.name]):
                omitted.append(member.name)
                continue
            del arrays[member.name]
            place = update[member.offset : member.offset + member.size]
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused by name below
                np.subtract(
                    array.numpy().reshape(-1), base[member.name].numpy().reshape(-1), out=place, casting="same_kind"
                )
        return update

    def _code(self, key: str, group: Group, update: Vector, residuals: dict[str, Array]) -> Array:
        codec = group.codec
        if codec.feedback and (lost := self._held.residuals.get(key)) is not None and lost.shape == update.shape:
            update += lost.numpy()
        frame = encoded(group, update, self._rng, where=self._where)
        if codec.feedback:
            residuals[key] = Array(update - decode_vector(frame, codec, group.size, peer="this device"))
        return code_array(frame)

    def _require_finite(self, name: str, array: Array) -> None:
        floats = array.stype == NUMPY_STYPE and array.dtype.startswith("float") and math.prod(array.shape) > 0
        if floats and (what := not_finite(array.numpy())) is not None:
            raise UpdateNotFinite(array=name, where=self._where, what=what)

    @property
    def _where(self) -> str:
        return f"on the device {self._device}"
