"""The digest of an instruction, which message 1 binds: equal exactly where a device would be asked the same.

It covers the message type, the app, the run's configuration, and every record but those of this layer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import msgpack
from flwr.app import ArrayRecord, RecordDict

from argosy_common.flower.arrays import encoded_pieces
from argosy_common.flower.secure import SECAGG


def app_digest(bundle: bytes, client_app: str) -> bytes:
    """Return the digest of an app: of its bundle, and of which client app in it is called (`module:attribute`)."""
    return hashlib.sha256(b"argosy/secagg/app" + bundle + client_app.encode()).digest()


def instruction_digest(
    message_type: str, content: RecordDict, *, app: bytes, run_config: Mapping[str, Any], group_id: str = ""
) -> bytes:
    """Return the SHA-256 of an instruction.

    Args:
        message_type: `train` or `evaluate`.
        group_id: Flower's, which apps can read.
        content: what the strategy sends, arrays whole.
        app: of `app_digest`; empty where the transport does not tell it, as on Flower's own.
        run_config: the run's configuration.
    """
    digest = hashlib.sha256(b"argosy/secagg/instruction")
    config = [[name, _value(run_config[name])] for name in sorted(run_config)]
    for part in (message_type.encode(), app, _packed(config), group_id.encode()):
        _add(digest, part)
    for name, record in content.items():
        if not name.startswith(SECAGG):
            _add(digest, _packed([name, type(record).__name__]))
            for part in _pieces(record):
                _add(digest, part)
    return digest.digest()


def _pieces(record: object) -> Iterator[bytes]:
    if isinstance(record, ArrayRecord):
        arrays = hashlib.sha256()
        length, pieces = encoded_pieces(record)
        for piece in pieces:
            arrays.update(piece)
        yield length.to_bytes(8, "big") + arrays.digest()
    elif isinstance(record, Mapping):
        yield _packed([[key, _value(record[key])] for key in sorted(record)])


def _value(value: object) -> list[object]:
    """Return a scalar or list with its type, since 1, 1.0 and True are different things to ask for."""
    values = value if isinstance(value, list) else [value]
    return [isinstance(value, list), [[type(each).__name__, each] for each in values]]


def _packed(value: object) -> bytes:
    data: bytes = msgpack.packb(value, use_bin_type=True)
    return data


def _add(digest: Any, part: bytes) -> None:  # noqa: ANN401  (hashlib's own class has no public name)
    digest.update(len(part).to_bytes(8, "big") + part)
