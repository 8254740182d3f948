"""The protocol's messages as records of Flower messages, and back.

    instruction of train or evaluate      SECAGG: stage "update", message-1       SECAGG.fleet: the fleet list
    its reply                             SECAGG: stage "update", header          SECAGG.update: y, box.0 … box.A−1
    query                                 SECAGG: stage "prekeys", count
    its reply                             SECAGG: stage "prekeys", batch
    query                                 SECAGG: stage "vote", "abort" or "sum", certificate
                                          SECAGG.round: message-1, handover       SECAGG.boxes: box.i of each i in S
    its reply                             SECAGG: stage, vote or answer           SECAGG.total: total

What is the same for many devices is a record of its own, so that it travels as one blob.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgpack
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from argosy_common.errors import REGISTRY, AppRaised, ArgosyError, SecureMessageMalformed, error_from_wire
from argosy_common.flower.compat import NUMPY_STYPE
from argosy_common.flower.secure import SECAGG
from argosy_common.prg import Elements

FLEET = f"{SECAGG}.fleet"
UPDATE = f"{SECAGG}.update"
ROUND = f"{SECAGG}.round"
BOXES = f"{SECAGG}.boxes"
TOTAL = f"{SECAGG}.total"

Y = "y"
MESSAGE_1 = "message-1"
HANDOVER = "handover"
FLEET_LIST = "list"
SUMMED = "total"


class Stage:
    """What a message of this layer is about."""

    UPDATE = "update"
    PREKEYS = "prekeys"
    VOTE = "vote"
    ABORT = "abort"
    SUM = "sum"


def box_name(index: int) -> str:
    """Return the name of the array that holds a box."""
    return f"box.{index}"


def bytes_record(**parts: bytes) -> ArrayRecord:
    """Return bytes as a record of arrays, which travels as a blob where it is long; `_` in a name becomes `-`."""
    return ArrayRecord(
        {name.replace("_", "-"): Array(np.frombuffer(part, np.uint8)) for name, part in parts.items()},
        keep_input=True,
    )


def boxes_record(boxes: Mapping[int, bytes]) -> ArrayRecord:
    """Return boxes as a record of arrays."""
    return ArrayRecord({box_name(i): Array(np.frombuffer(box, np.uint8)) for i, box in boxes.items()}, keep_input=True)


def answer(stage: str, **fields: bytes | list[bytes]) -> RecordDict:
    """Return the content of a reply of a stage, without its arrays."""
    return RecordDict({SECAGG: ConfigRecord({"stage": stage, **fields})})


def accept(reply: Message) -> Message:
    """Accept a reply of this layer; a refusal that it carries, as on Flower's own transport, becomes that error.

    Raises:
        ArgosyError: the refusal.
    """
    if reply.has_content() and (own := reply.content.config_records.get(SECAGG)) is not None and "error" in own:
        packed = own["error"]
        try:
            fields = msgpack.unpackb(packed if isinstance(packed, bytes) else b"", raw=False, max_ext_len=0)
        except (ValueError, TypeError, msgpack.UnpackException, RecursionError):
            fields = {}
        raise error_from_wire(fields if isinstance(fields, dict) else {})
    return reply


def refusal(error: ArgosyError) -> RecordDict:
    """Return the content of a reply that carries a named refusal, over a transport that knows none."""
    return RecordDict({SECAGG: ConfigRecord({"error": msgpack.packb(error.to_wire(), use_bin_type=True)})})


def content_of(reply: Message) -> RecordDict:
    """Return a reply's content.

    Raises:
        ArgosyError: the error that it is instead, as its reason names it.
    """
    if reply.has_error():
        raise error_of(reply)
    return reply.content


def error_of(reply: Message) -> ArgosyError:
    """Return the named error that an error reply carries: its reason begins with the code."""
    code, _, told = (reply.error.reason or "").partition(": ")
    known = REGISTRY.get(code)
    if known is None:
        return AppRaised(why=(reply.error.reason or f"Flower's error {reply.error.code}")[:500])
    error = known()
    error.message = told
    return error


def config(content: RecordDict, *, peer: str) -> ConfigRecord:
    """Return this layer's own record.

    Raises:
        SecureMessageMalformed: there is none.
    """
    record = content.config_records.get(SECAGG)
    if record is None:
        raise SecureMessageMalformed(peer=peer, why="it says nothing of secure aggregation")
    return record


def array(content: RecordDict, record: str, name: str, *, peer: str, most: int) -> Elements:
    """Return an array of field elements or bytes.

    Args:
        content: of a message.
        record, name: where it is.
        peer: who sent it.
        most: how many elements it may have.

    Raises:
        SecureMessageMalformed: it is missing, too long, or no vector of uint8 or uint16.
    """
    arrays = content.array_records.get(record)
    found = None if arrays is None else arrays.get(name)
    if found is None or found.stype != NUMPY_STYPE or found.dtype not in ("uint8", "uint16", "<u2"):
        raise SecureMessageMalformed(peer=peer, why=f"'{record}' has no '{name}' of whole numbers")
    if len(found.shape) != 1 or found.shape[0] > most:
        raise SecureMessageMalformed(
            peer=peer, why=f"'{name}' has the shape {list(found.shape)}; at most {most} values"
        )
    try:
        values: Elements = found.numpy()
    except ArgosyError:
        raise
    except Exception as error:  # noqa: BLE001  (numpy raises many kinds on bytes from outside)
        raise SecureMessageMalformed(peer=peer, why=f"'{name}' cannot be read: {error}") from None
    numbers = isinstance(values, np.ndarray) and values.dtype.name in ("uint8", "uint16")  # numpy reads archives too
    if not numbers or values.shape != tuple(found.shape):
        raise SecureMessageMalformed(peer=peer, why=f"'{name}' is not what it says it is")
    return values


def data(content: RecordDict, record: str, name: str, *, peer: str, most: int) -> bytes:
    """Return bytes that travel as an array; see `array`."""
    found = array(content, record, name, peer=peer, most=most)
    if found.dtype.itemsize != 1:
        raise SecureMessageMalformed(peer=peer, why=f"'{name}' is not bytes")
    return found.tobytes()
