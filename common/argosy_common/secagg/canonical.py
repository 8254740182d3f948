"""The form of all that is signed or kept: a msgpack map of a class's fields, in one way of writing it. Light."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Self

import msgpack
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from argosy_common.errors import SecureMessageMalformed

MOST_BYTES = 4 * 1024 * 1024
"""Of any message, arrays apart. Message 1 of a model of 10^9 values has 1 MB of scales."""

Digest = Annotated[bytes, Field(min_length=32, max_length=32)]


class Message(BaseModel):
    """The base of all messages."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @cached_property
    def packed(self) -> bytes:
        """The canonical bytes."""
        data: bytes = msgpack.packb(self.model_dump(mode="python"), use_bin_type=True)
        return data

    def changed(self, **changes: object) -> Self:
        """Return this message with other values in some fields; nothing that was worked out of the old ones is kept."""
        return type(self)(**{name: getattr(self, name) for name in type(self).model_fields} | changes)

    @classmethod
    def parse(cls, data: object, *, peer: str) -> Self:
        """Return the message that `data` holds.

        Raises:
            SecureMessageMalformed: it is no such message, or not in its canonical bytes.
        """
        if not isinstance(data, bytes) or len(data) > MOST_BYTES:
            raise SecureMessageMalformed(peer=peer, why=f"{cls.__name__}: not bytes, or too many")
        try:
            found = cls.model_validate(
                msgpack.unpackb(data, raw=False, use_list=False, strict_map_key=True, max_ext_len=0)
            )
        except ValidationError as error:
            first = error.errors()[0]
            why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
            why = str(error)
        else:
            if found.packed == data:
                return found
            why = "its bytes are not the canonical ones"
        raise SecureMessageMalformed(peer=peer, why=f"{cls.__name__}: {why}")
