"""Which blobs this run process can still read: those whose stored arrays some Python object refers to.

When the last array of a blob is garbage, the daemon is told, and may delete the file: a run's disk use stays at about
one model and one round of replies. The garbage collector may strike anywhere, also inside a send, so it only notes;
`flush` tells.
"""

from __future__ import annotations

import weakref
from collections import Counter, deque
from collections.abc import Callable, Collection

from flwr.app import ArrayRecord, Message

from argosy_common.flower.arrays import StoredArray


class Holdings:
    """Counts live arrays a blob. Used by one thread."""

    def __init__(self, release: Callable[[Collection[bytes]], None]) -> None:
        self._release = release
        self._live: Counter[bytes] = Counter()
        self._known: set[int] = set()
        self._dropped: deque[tuple[int, bytes]] = deque()
        self._free: set[bytes] = set()

    def hold(self, message: Message) -> None:
        """Count the stored arrays of `message`, each once in its life."""
        if not message.has_content():
            return
        for record in message.content.array_records.values():
            self.hold_arrays(record)

    def hold_arrays(self, record: ArrayRecord) -> None:
        """Count the stored arrays of `record`, each once in its life."""
        self._settle()  # first, since a dead array's identity may have been given to a new one
        for array in record.values():
            home = array.home if isinstance(array, StoredArray) else None
            if home is not None and id(array) not in self._known:
                self._known.add(id(array))
                self._live[home.ref.digest] += 1
                weakref.finalize(array, self._dropped.append, (id(array), home.ref.digest)).atexit = False

    def flush(self) -> None:
        """Tell the daemon which blobs are free.

        To be called between holding new messages and pushing them: a blob that is written again with the same content
        is live by then and stays, and the daemon has acted on the release before the push's answers can arrive.
        """
        self._settle()
        free = [digest for digest in self._free if digest not in self._live]
        self._free.clear()
        if free:
            self._release(free)

    def _settle(self) -> None:
        while self._dropped:
            identity, digest = self._dropped.popleft()
            self._known.discard(identity)
            self._live[digest] -= 1
            if not self._live[digest]:
                del self._live[digest]
                self._free.add(digest)
