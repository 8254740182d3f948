"""Frames on the inference socket (docs/protocol.md, "Inference"): a fixed prefix, a msgpack map, and a tensor's bytes.

    offset 0   2 bytes   "AI"
           2   1 byte    form, 1
           3   1 byte    0
           4   4 bytes   length of the map, big-endian
           8   4 bytes   length of the tensor
          12             the map, then the tensor, C order, little-endian

One request, one answer, in turns; a connection may carry any number. What breaks these rules ends the connection.
"""

from __future__ import annotations

import socket
import struct
from typing import IO, Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from argosy_common.errors import InputInvalid

PREFIX = struct.Struct("!2sBxII")
MAGIC, FORM = b"AI", 1
MAX_MAP = 16 * 1024
MAX_TENSOR = 64 * 1024 * 1024
MAX_DIMENSIONS = 8
DTYPES = frozenset({"float32", "float64", "float16", "uint8", "int8", "int16", "int32", "int64"})


class BrokenFrame(Exception):
    """What came is no frame of ours; the connection is of no more use."""


def send(sock: socket.socket, fields: dict[str, Any], tensor: NDArray[np.generic] | None = None) -> None:
    """Send one frame.

    Raises:
        OSError: as the socket reports it.
    """
    packed: bytes = msgpack.packb(fields)
    body = memoryview(b"") if tensor is None or tensor.size == 0 else np.ascontiguousarray(tensor).data.cast("B")
    head = PREFIX.pack(MAGIC, FORM, len(packed), len(body)) + packed
    sent = sock.sendmsg([head, body])
    if sent < len(head):
        sock.sendall(head[sent:])
        sent = len(head)
    if sent < len(head) + len(body):
        sock.sendall(body[sent - len(head) :])


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], bytearray] | None:
    """Return the next frame's map and tensor; None at the end of the stream, between frames.

    Raises:
        BrokenFrame: it is none, or was cut.
        OSError: as the socket reports it.
    """
    prefix = stream.read(PREFIX.size)
    if not prefix:
        return None
    if len(prefix) < PREFIX.size:
        raise BrokenFrame("it was cut")
    magic, form, maps, tensor = PREFIX.unpack(prefix)
    if (magic, form) != (MAGIC, FORM) or maps > MAX_MAP or tensor > MAX_TENSOR:
        raise BrokenFrame("it does not begin as a frame does, or is too long")
    packed, body = stream.read(maps), bytearray(tensor)
    view, got = memoryview(body), 0
    while got < tensor:
        count = stream.readinto(view[got:])  # type: ignore[attr-defined]  # a BufferedReader has it
        if not count:
            raise BrokenFrame("it was cut")
        got += count
    try:
        fields = msgpack.unpackb(packed)
    except (ValueError, msgpack.UnpackException) as error:
        raise BrokenFrame(f"its map cannot be read: {error}") from None
    if not isinstance(fields, dict):
        raise BrokenFrame("its map is none")
    return fields, body


def tensor_of(fields: dict[str, Any], body: bytearray) -> NDArray[np.generic]:
    """Return the tensor of a frame.

    Raises:
        InputInvalid: dtype, shape and length do not go together.
    """
    dtype, shape = fields.get("dtype"), fields.get("shape")
    model = str(fields.get("model", ""))[:80]
    if dtype not in DTYPES:
        raise InputInvalid(model=model, why=f"its dtype is none of {', '.join(sorted(DTYPES))}")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(map(_is_length, shape)):
        raise InputInvalid(model=model, why="its shape is no list of numbers")
    count = 1
    for n in shape:
        count *= n
    if count * np.dtype(dtype).itemsize != len(body):
        raise InputInvalid(model=model, why=f"{len(body)} bytes are not {shape} of {dtype}")
    return np.frombuffer(body, dtype=dtype).reshape(shape)


def described(tensor: NDArray[np.generic]) -> dict[str, Any]:
    """Return the fields that describe a tensor."""
    return {"dtype": str(tensor.dtype), "shape": list(tensor.shape)}


def _is_length(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
