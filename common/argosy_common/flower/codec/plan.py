"""What a message says of its compressed arrays: one config record, which the layer adds and takes away again.

An instruction names the codec for the reply's arrays, and for each record of arrays the version of the model that it
brings the device to, and from which. A reply names what it left out. Both come from the other end, and are checked.

    content of an instruction                           content of a reply
    ARGOSY                 the plan                      ARGOSY       the plan
    <record>               the whole model, or           <record>     exact arrays as they are, and one uint8 array
    <record>@<version>     one change of the chain                    a group: `code_name(i)`
    <record>@exact         its exact arrays
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import msgpack
from flwr.app import ConfigRecord, RecordDict
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from argosy_common.errors import CodeMalformed
from argosy_common.flower.codec import ARGOSY

MAX_PLAN = 256 * 1024

_Name = Annotated[str, Field(max_length=1024)]
_Version = Annotated[int, Field(ge=0, lt=2**53)]


def code_name(group: int) -> str:
    """Return the name of the array that holds the code of a group."""
    return f"{ARGOSY}.{group}"


def step_name(record: str, version: int) -> str:
    """Return the name of the record that holds the change to a version of the model."""
    return f"{record}@{version}"


def exact_name(record: str) -> str:
    """Return the name of the record that holds a version's exact arrays."""
    return f"{record}@exact"


class _Plan(BaseModel):
    """A plan as a record of a message."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    v: Literal[1] = 1

    @classmethod
    def taken_from(cls, content: RecordDict, *, peer: str) -> Self | None:
        """Take the plan out of a message's content; None if it has none.

        Raises:
            CodeMalformed: it is not a plan.
        """
        record = content.config_records.get(ARGOSY)
        if record is None:
            return None
        del content[ARGOSY]
        packed = record.get("plan")
        if not isinstance(packed, bytes) or len(packed) > MAX_PLAN:
            raise CodeMalformed(peer=peer, codec=ARGOSY, why="its plan: it is not bytes, or too long")
        try:
            return cls.model_validate(_lists_as_tuples(msgpack.unpackb(packed, raw=False, max_ext_len=0)))
        except ValidationError as error:
            first = error.errors()[0]
            why = f"its plan: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
            why = f"its plan: {error}"
        raise CodeMalformed(peer=peer, codec=ARGOSY, why=why)

    def put_into(self, content: RecordDict) -> None:
        """Add the plan to a message's content."""
        packed: bytes = msgpack.packb(self.model_dump(exclude_defaults=True) | {"v": self.v}, use_bin_type=True)
        content[ARGOSY] = ConfigRecord({"plan": packed})


def _lists_as_tuples(value: Any) -> Any:  # noqa: ANN401  (whatever msgpack gave)
    """Return `value` with its lists as tuples: msgpack has one kind of sequence, strict pydantic tells them apart."""
    if isinstance(value, list):
        return tuple(_lists_as_tuples(each) for each in value)
    if isinstance(value, Mapping):
        return {key: _lists_as_tuples(each) for key, each in value.items()}
    return value


class Update(BaseModel):
    """How a record of an instruction brings the device's model up to date.

    Attributes:
        line: names the sequence of models; another line has nothing to do with this one.
        version: what the device holds afterwards.
        base: what it must hold before, or None where the record is the whole model.
        codec: that of the changes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    line: Annotated[str, Field(max_length=64)]
    version: _Version
    base: _Version | None = None
    codec: _Name


class InstructionPlan(_Plan):
    """The plan of an instruction.

    Attributes:
        up: the codec for the reply's arrays; None where the reply travels as it is.
        arrays: patterns that override a codec, of either direction.
        down: records that are held on the device from version to version.
    """

    up: _Name | None = None
    arrays: Annotated[tuple[tuple[_Name, _Name], ...], Field(max_length=256)] = ()
    down: dict[_Name, Update] = {}


class ReplyPlan(_Plan):
    """The plan of a reply.

    Attributes:
        omitted: for each record that is encoded, the arrays that its groups should hold and do not.
        lacks: records whose base the device does not hold; there is nothing else in such a reply.
    """

    omitted: dict[_Name, tuple[_Name, ...]] = {}
    lacks: tuple[_Name, ...] = ()
