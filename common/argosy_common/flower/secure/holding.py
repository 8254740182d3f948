"""The holder's stage on a device, message by message: checked, written down, then answered (section 6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from argosy_common.errors import PrekeyUnknown, SecureMessageMalformed
from argosy_common.flower.secure import parcels
from argosy_common.flower.secure.journal import Release
from argosy_common.flower.secure.keep import Keep
from argosy_common.flower.secure.parcels import Stage
from argosy_common.prg import Elements
from argosy_common.secagg.admission import Admission, admit, opened
from argosy_common.secagg.binding import may_release, may_sum, may_vote
from argosy_common.secagg.certificate import ABORT
from argosy_common.secagg.client import Entropy, vector_length
from argosy_common.secagg.holder import HandedSet, add_shares, cast_vote, open_boxes, read_certificate, read_set
from argosy_common.secagg.messages import COORDINATOR, MOST_BYTES, MOST_PREKEYS, Certificate, Handover
from argosy_common.secagg.sealing import BOX_OVERHEAD


@dataclass(frozen=True)
class _Asked:
    """What every message to a holder brings: the round, and the set."""

    admission: Admission
    handed: HandedSet
    content: RecordDict

    @property
    def prekey(self) -> bytes:
        """This holder's key in the round's roster."""
        return self.admission.announcement.roster[self.admission.index].key


class HolderService:
    """Answers the messages of one device's part as a holder.

    Args:
        keep: its keys and journal.
        entropy: fresh secret bytes.
    """

    def __init__(self, keep: Keep, entropy: Entropy) -> None:
        self._keep = keep
        self._journal = keep.journal
        self._entropy = entropy
        self._stages: dict[object, Callable[[RecordDict, ConfigRecord], RecordDict]] = {
            Stage.PREKEYS: self._prekeys,
            Stage.VOTE: self._vote,
            Stage.ABORT: self._abort,
            Stage.SUM: self._sum,
        }

    def answer(self, content: RecordDict) -> RecordDict:
        """Return the content of the reply to a message of the type `HOLDER`.

        Raises:
            As `argosy_common.errors.secure` lists: what the protocol refuses.
        """
        own = parcels.config(content, peer=COORDINATOR)
        stage = self._stages.get(own.get("stage"))
        if stage is None:
            raise SecureMessageMalformed(peer=COORDINATOR, why=f"holders know no stage {own.get('stage')!r}")
        return stage(content, own)

    # --- message 0

    def _prekeys(self, _content: RecordDict, own: ConfigRecord) -> RecordDict:
        count = own.get("count")
        if not isinstance(count, int) or not 1 <= count <= MOST_PREKEYS:
            raise SecureMessageMalformed(peer=COORDINATOR, why=f"it asks for {count!r} prekeys")
        made = self._journal.new_prekeys(count, self._keep.key, self._entropy)
        return parcels.answer(Stage.PREKEYS, batch=made.packed)

    # --- messages 3 and 4

    def _vote(self, content: RecordDict, _own: ConfigRecord) -> RecordDict:
        asked = self._read(content)
        cast = self._journal.cast(asked.admission.sid)
        may_vote(cast, asked.handed.root)
        if cast is None:
            may_sum(asked.admission.announcement, asked.handed.members, asked.admission.fingerprints)
            _, complaints = self._shares(asked)
            self._journal.write_vote(cast_vote(asked.admission, self._keep.key, asked.handed, complaints))
        return self._written_vote(Stage.VOTE, asked.admission.sid)

    def _abort(self, content: RecordDict, _own: ConfigRecord) -> RecordDict:
        asked = self._read(content)
        cast = self._journal.cast(asked.admission.sid)
        may_vote(cast, ABORT)
        if cast is None:
            self._journal.write_vote(cast_vote(asked.admission, self._keep.key, None))
        self._journal.erase_prekey(asked.prekey)  # of a vote before as well: a power cut may have come between the two
        return self._written_vote(Stage.ABORT, asked.admission.sid)

    def _written_vote(self, stage: str, sid: bytes) -> RecordDict:
        vote = self._journal.vote(sid)
        return parcels.answer(stage, vote=b"" if vote is None else vote.packed)

    # --- messages 5 and 6

    def _sum(self, content: RecordDict, own: ConfigRecord) -> RecordDict:
        asked = self._read(content)
        admission = asked.admission
        found = read_certificate(admission, Certificate.parse(own.get("certificate"), peer=COORDINATOR), asked.handed)
        cast = self._journal.cast(admission.sid)
        may_release(cast, found)
        may_sum(admission.announcement, found.members, admission.fingerprints)
        release = self._journal.release(admission.sid)
        if release is None:
            shares, complaints = self._shares(asked)
            answer, total = add_shares(admission, self._keep.key, shares, found.members)
            if cast is None:  # it was away while the others voted; its vote binds it all the same
                self._journal.write_vote(cast_vote(admission, self._keep.key, asked.handed, complaints))
            release = Release(found.members, answer.packed, total.astype(total.dtype.newbyteorder("<")).tobytes())
            self._journal.write_release(admission.sid, release, asked.prekey)
        reply = parcels.answer(Stage.SUM, answer=release.answer)
        dtype = np.uint8 if admission.parameters.p <= 256 else np.dtype("<u2")
        reply[parcels.TOTAL] = ArrayRecord({parcels.SUMMED: Array(np.frombuffer(release.total, dtype))})
        return reply

    # --- what all of them begin with

    def _read(self, content: RecordDict) -> _Asked:
        """Check message 1 and message 3: signatures come before anything that takes memory or time."""
        first = parcels.data(content, parcels.ROUND, parcels.MESSAGE_1, peer=COORDINATOR, most=MOST_BYTES)
        admission = admit(opened(first), self._keep.fingerprint, self._keep.policy(None))
        packed = parcels.data(content, parcels.ROUND, parcels.HANDOVER, peer=COORDINATOR, most=MOST_BYTES)
        return _Asked(admission, read_set(admission, Handover.parse(packed, peer=COORDINATOR)), content)

    def _shares(self, asked: _Asked) -> tuple[dict[int, Elements], tuple[int, ...]]:
        """Open this holder's boxes; see `open_boxes`."""
        key = self._journal.prekey(asked.prekey)
        if key is None:
            raise PrekeyUnknown(device=self._keep.fingerprint.hex()[:16])
        announcement = asked.admission.announcement
        most = 64 + BOX_OVERHEAD + 2 * asked.admission.parameters.L(vector_length(announcement))
        boxes = {
            i: parcels.data(asked.content, parcels.BOXES, parcels.box_name(i), peer=COORDINATOR, most=most)
            for i in asked.handed.members
        }
        return open_boxes(asked.admission, key, asked.handed, boxes)
