"""Ids of messages: the same message of the same phase of the same run has the same one, however often it is made.

So whatever a run asks for again, after its coordinator was killed, is known to the database and to the devices: what
was answered stays answered, and what is under way goes on.
"""

from __future__ import annotations

import hashlib
from collections import Counter

from flwr.app import Message

from argosy_common.flower.messages import MessageDumper
from argosy_common.wire.envelope import new_id


class MessageIds:
    """Gives ids to the messages of one run.

    Args:
        salt: the run's, random, and kept with it; without one, ids are random. A run's number alone would not do: a
            coordinator that was restored from a backup gives numbers anew that devices know already.
    """

    def __init__(self, salt: str) -> None:
        self._salt = salt
        self._seen: Counter[bytes] = Counter()

    def next(self, message: Message, round_: int | None, dumper: MessageDumper) -> str:
        """Return the id of a message that is about to be sent. One without a round may come again and again."""
        if not self._salt or round_ is None:
            return new_id()
        meta = message.metadata
        about = f"{self._salt}/{round_}/{meta.message_type}/{meta.group_id}/{meta.dst_node_id}/".encode()
        same = hashlib.sha256(about + dumper.said(message)).digest()
        self._seen[same] += 1
        return hashlib.sha256(same + self._seen[same].to_bytes(8, "big")).hexdigest()[:32]
