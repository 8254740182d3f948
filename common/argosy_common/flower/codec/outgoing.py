"""What goes out: for each device the change to the model that it holds, and the plan that says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from flwr.app import ArrayRecord, Message, RecordDict

from argosy_common.errors import ModelVersionMissing
from argosy_common.flower import compat
from argosy_common.flower.codec.groups import CodecChoice, fp32_size
from argosy_common.flower.codec.line import ModelLine
from argosy_common.flower.codec.plan import InstructionPlan, Update
from argosy_common.flower.messages import round_of
from argosy_common.flower.rounds import device_id

Held = tuple[str, int]
"""A line and a version of it; for records that travel as they are, "" and a number that changes with the record."""


@dataclass
class Dispatch:
    """One message on its way, and what is needed to make sense of its reply.

    Attributes:
        message: what the grid below sends.
        head: the same without its content; it has the message's id once it is sent.
        content: what the strategy gave.
        versions: what the device holds afterwards, by record.
        encoded: whether the reply's arrays come encoded.
    """

    message: Message
    head: Message
    content: RecordDict
    versions: dict[str, Held]
    encoded: bool

    @property
    def node(self) -> int:
        """Flower's number of the device."""
        return self.head.metadata.dst_node_id

    @property
    def device(self) -> str:
        """The device's id."""
        return device_id(self.node)

    @property
    def round(self) -> int | None:
        """The round it belongs to."""
        return round_of(self.content, self.head.metadata.group_id)

    @property
    def phase(self) -> str:
        """The phase it belongs to."""
        return self.head.metadata.message_type

    def base_of(self, record: str) -> ArrayRecord:
        """Return the model that a reply's record is relative to: the one of its name, or the only one there is."""
        records = self.content.array_records
        return records[record] if record in records else next(iter(records.values()), ArrayRecord())

    def missing(self) -> ModelVersionMissing:
        """Return the error that stands for a device which does not have the model."""
        return ModelVersionMissing(device=self.device, version=max((it[1] for it in self.versions.values()), default=0))

    def again(self) -> Message:
        """Return the strategy's message once more, to be prepared and sent anew."""
        meta = self.head.metadata
        return Message(self.content, meta.dst_node_id, meta.message_type, ttl=meta.ttl, group_id=meta.group_id)


@dataclass
class Outbox:
    """Prepares messages, and remembers which device holds which version of the model."""

    up: CodecChoice
    down: CodecChoice
    rng: np.random.Generator
    _lines: dict[str, ModelLine] = field(default_factory=dict)
    _plain: dict[str, tuple[ArrayRecord, int]] = field(default_factory=dict)
    _held: dict[int, dict[str, Held]] = field(default_factory=dict)

    def prepare(self, messages: list[Message]) -> list[Dispatch]:
        """Return what to send in place of the strategy's messages; content is shared by devices that get the same.

        Raises:
            UpdateNotFinite: the strategy's model holds NaN or infinity.
        """
        models = _models(messages)
        for name, record in models.items():
            self._advance(name, record)
        contents: dict[tuple[object, ...], RecordDict] = {}
        return [self._prepare(message, models, contents) for message in messages]

    def _advance(self, name: str, record: ArrayRecord) -> None:
        if self.down.active:
            line = self._lines.setdefault(name, ModelLine(name, self.down, self.rng))
            line.advance(record)
            return
        last, number = self._plain.get(name, (None, 0))
        if last is not record:
            self._plain[name] = (record, number + 1)

    def _prepare(
        self, message: Message, models: Mapping[str, ArrayRecord], contents: dict[tuple[object, ...], RecordDict]
    ) -> Dispatch:
        content, meta = message.content, message.metadata
        held = self._held.get(meta.dst_node_id, {})
        encoded = self.up.active and meta.message_type.split(".")[0] == "train"
        shared = {name: record for name, record in content.array_records.items() if models.get(name) is record}
        bases = {name: self._lines[name].base_for(held.get(name)) for name in shared if name in self._lines}
        key = (id(content), encoded, *bases.items())
        if key not in contents:
            contents[key] = self._content(content, bases, encoded=encoded)
        versions = {name: self._version(name) for name in shared}
        outgoing = compat.with_content(message, contents[key])
        return Dispatch(outgoing, compat.head_of(outgoing), content, versions, encoded)

    def _version(self, name: str) -> Held:
        return self._lines[name].held if name in self._lines else ("", self._plain[name][1])

    def _content(self, content: RecordDict, bases: Mapping[str, int | None], *, encoded: bool) -> RecordDict:
        """Return the content for devices that hold the versions `bases`."""
        if not encoded and not bases:
            return content
        made = RecordDict()
        down: dict[str, Update] = {}
        for name, record in content.items():
            if name not in bases:
                made[name] = record
                continue
            down[name], records = self._lines[name].update_from(bases[name])
            for each, part in records.items():
                made[each] = part
        up = self.up.codec if encoded else None
        InstructionPlan(up=up, arrays=self.down.arrays, down=down).put_into(made)
        return made

    def delivered(self, dispatch: Dispatch) -> int:
        """Note that a device has what it was sent; return the bytes of it, at full precision, that it had not before.

        Called with each valid reply: a device that failed may have lost what it was sent together with its work.
        """
        held = self._held.setdefault(dispatch.node, {})
        records = dispatch.content.array_records
        new = [name for name in records if name not in dispatch.versions or held.get(name) != dispatch.versions[name]]
        held.update(dispatch.versions)
        return sum(fp32_size(records[name]) for name in new)

    def forget(self, dispatch: Dispatch) -> None:
        """Note that a device does not hold what it was thought to hold."""
        self._held.pop(dispatch.node, None)


def _models(messages: list[Message]) -> dict[str, ArrayRecord]:
    """Return the records that are the same for all messages which have one of their name.

    What differs from device to device is no common model, and travels as it is.
    """
    found: dict[str, ArrayRecord | None] = {}
    for message in messages:
        for name, record in message.content.array_records.items():
            found[name] = record if found.get(name, record) is record else None
    return {name: record for name, record in found.items() if record is not None}
