"""The device's half: a mod around the client app, driven by messages, that writes down before it answers.

Argosy's worker calls it by itself. On Flower's SuperNode an app names it; see `standalone`.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict

from argosy_common.errors import (
    AppRaised,
    ArgosyError,
    InstructionDiffers,
    PrekeyUnknown,
    ReplyInvalid,
    SecureMessageMalformed,
    SecureParametersRefused,
    SecureRequired,
    SecureRetryRefused,
)
from argosy_common.flower.codec.groups import gathered
from argosy_common.flower.compat import set_message_id
from argosy_common.flower.secure import HOLDER, PHASES, SECAGG, is_secure, parcels
from argosy_common.flower.secure.digest import instruction_digest
from argosy_common.flower.secure.holding import HolderService
from argosy_common.flower.secure.keep import Keep
from argosy_common.flower.secure.parcels import Stage
from argosy_common.flower.secure.reply import client_update, plain
from argosy_common.flower.secure.vectors import vector_size
from argosy_common.secagg import override
from argosy_common.secagg.admission import Admission, admit, opened
from argosy_common.secagg.binding import Ending, earlier, may_retry, may_send
from argosy_common.secagg.certificate import certified
from argosy_common.secagg.client import Entropy, mask_update
from argosy_common.secagg.messages import COORDINATOR, MOST_BYTES, Announcement, Certificate
from argosy_common.secagg.parameters import Parameters
from argosy_common.secagg.sealing import fingerprint, verifying_key

Call = Callable[[Message, Context], Message]

LIFE_S = 3600.0
"""Of an instruction, as apps see it."""


class SecureMod:
    """See the module.

    Args:
        keep: the device's keys and journal.
        app: of `digest.app_digest`; empty where the transport does not tell.
        own_node: whether the device's node id is that of its identity, as on Argosy's own transport.
        entropy: fresh secret bytes.
    """

    def __init__(self, keep: Keep, *, app: bytes = b"", own_node: bool = False, entropy: Entropy = os.urandom) -> None:
        self._keep = keep
        self._app = app
        self._own_node = own_node
        self._entropy = entropy
        self._holder = HolderService(keep, entropy)

    def __call__(self, message: Message, context: Context, call_next: Call) -> Message:
        """Answer one message.

        Raises:
            SecureRequired: a plain instruction, on a device that takes part in secure runs only.
            AppRaised: the app failed; its words stay on the device.
            As `argosy_common.errors.secure` lists: what the protocol refuses.
        """
        kind = message.metadata.message_type
        if not is_secure(message):
            if self._keep.home.required:
                raise SecureRequired(what=f"a plain '{kind}'")
            return call_next(message, context)
        if kind == HOLDER:
            return Message(self._holder.answer(message.content), reply_to=message)
        own = parcels.config(message.content, peer=COORDINATOR)
        if kind not in PHASES or own.get("stage") != Stage.UPDATE:
            raise SecureMessageMalformed(peer=COORDINATOR, why=f"'{kind}' cannot be answered under the mask")
        return Message(self._update(message, context, call_next, own), reply_to=message)

    # --- messages 1 and 2

    def _update(self, message: Message, context: Context, call_next: Call, own: ConfigRecord) -> RecordDict:
        content, journal = message.content, self._keep.journal
        # 1 message 1 holds, for this device
        announcement = opened(own.get(parcels.MESSAGE_1))
        offered = None
        if parcels.FLEET in content.array_records:
            offered = parcels.data(content, parcels.FLEET, parcels.FLEET_LIST, peer=COORDINATOR, most=MOST_BYTES)
        admission = admit(announcement, self._keep.fingerprint, self._keep.policy(offered))
        # 2 the same round once more: the same bytes once more
        if (stored := journal.update(announcement.sid)) is not None:
            return stored
        # 3 the instruction is the one that all others get
        given = plain(content, SECAGG)
        self._require_bound(announcement, message, context, given)
        base = _model(given, announcement)
        # 4 this device may answer it, now and in this set
        self._check_history(admission)
        # 5 compute, mask, write down
        reply = _called(call_next, _shown(message, given, announcement), context, announcement)
        where = f"on the device {context.node_id:016x}"
        update = client_update(reply, base, weight_key=announcement.weight, slots=announcement.slots, where=where)
        try:
            masked = mask_update(admission, self._keep.key, update, self._entropy)
        except ValueError as error:
            raise ReplyInvalid(why=error) from None
        answer = parcels.answer(Stage.UPDATE, header=masked.signed.packed)
        boxes = parcels.boxes_record(dict(enumerate(masked.boxes)))
        answer[parcels.UPDATE] = ArrayRecord({parcels.Y: Array(masked.y), **boxes}, keep_input=True)
        journal.write_update(announcement, answer)
        return answer

    def _require_bound(self, announcement: Announcement, message: Message, context: Context, given: RecordDict) -> None:
        """Refuse an instruction that is not the one which all others get."""
        meta = message.metadata
        digest = instruction_digest(
            meta.message_type, given, app=self._app, run_config=context.run_config, group_id=meta.group_id
        )
        if announcement.instruction != digest:
            raise InstructionDiffers(why="what came is not what message 1 names")
        own = int.from_bytes(self._keep.fingerprint[:8], "big")
        if self._own_node and context.node_id != own:
            raise InstructionDiffers(why=f"it is for node {context.node_id:016x}, and this device is {own:016x}")

    def _check_history(self, admission: Admission) -> None:
        """Apply the rules of section 3 to what this device did before."""
        announcement, journal = admission.announcement, self._keep.journal
        sent = journal.sent(announcement.run, announcement.instruction)
        may_send(sent, announcement)
        last = earlier(sent, announcement)
        may_retry(last, announcement, *self._ending(announcement, None if last is None else last.sid))
        if journal.prekey(announcement.roster[admission.index].key) is None:
            raise PrekeyUnknown(device=self._keep.fingerprint.hex()[:16])

    def _ending(self, announcement: Announcement, sid: bytes | None) -> tuple[Ending, list[bytes]]:
        """Return how the attempt `sid` is shown to have ended, and the fingerprints of the set that it released."""
        prior = announcement.prior
        if sid is None or prior is None or prior.sid != sid:
            return Ending.UNKNOWN, []
        before = self._keep.journal.announcement(sid)
        if prior.override:
            operator = self._keep.operator
            sound = operator is not None and override.holds(operator, sid, prior.override)
            return _unsummed(before) if sound and before is not None else (Ending.UNKNOWN, [])
        if before is None or not prior.certificate:
            return Ending.UNKNOWN, []
        parameters = Parameters(len(before.roster), before.A, before.U, before.T, before.p)
        certificate = Certificate.parse(prior.certificate, peer=COORDINATOR)
        try:
            found = certified(parameters, sid, certificate, [verifying_key(each.identity) for each in before.roster])
        except ValueError as error:
            raise SecureRetryRefused(why=f"the proof of how its last try ended does not hold: {error}") from None
        if found.aborted:
            return _unsummed(before)
        return Ending.RELEASED, [fingerprint(before.roster[i].identity) for i in found.members]


def _unsummed(before: Announcement) -> tuple[Ending, list[bytes]]:
    """Return the ending of an attempt that revealed nothing; what one before it revealed binds the next one as well."""
    fixed = list(before.fixed)
    return (Ending.RELEASED if fixed else Ending.ABORTED), fixed


def _model(content: RecordDict, announcement: Announcement) -> ArrayRecord | None:
    """Return the arrays that the update is a change of; None where only metrics are summed."""
    if not announcement.size:
        return None
    records = list(content.array_records.values())
    if len(records) != 1 or vector_size(records[0]) != announcement.size:
        raise SecureParametersRefused(why=f"its update has {announcement.size} values, and the model has not")
    return gathered(records[0])  # a record of our own: an app may take the arrays out of the one it is given


def _shown(message: Message, given: RecordDict, announcement: Announcement) -> Message:
    """Return the instruction as the app sees it: with nothing beside its records that is not the same for all."""
    meta = message.metadata
    shown = Message(given, meta.dst_node_id, meta.message_type, ttl=LIFE_S, group_id=meta.group_id)
    set_message_id(shown, announcement.sid.hex()[:32])
    return shown


def _called(call_next: Call, message: Message, context: Context, announcement: Announcement) -> Message:
    """Call the app. What it says when it fails may tell of its data, so only the kind of failure leaves the device.

    Its context has the number of the run that message 1 binds in place of the one that this device was told.

    Raises:
        AppRaised: it failed, or replied with an error.
    """
    run = int.from_bytes(announcement.run[:8], "big") >> 1
    seen = Context(run, context.node_id, context.node_config, context.state, context.run_config)
    try:
        reply = call_next(message, seen)
        context.state = seen.state
    except ArgosyError:
        raise
    except BaseException as error:  # noqa: BLE001  (an app may raise anything, SystemExit too; its kind is told)
        traceback.print_exc()
        raise AppRaised(why=f"{type(error).__name__}; in a secure run its words stay in the device's log") from None
    if not isinstance(reply, Message):
        raise ReplyInvalid(why=f"it is of type {type(reply).__name__}, not a Message")
    if reply.has_error():
        raise AppRaised(why="it replied with an error; in a secure run its words stay in the device's log")
    return reply
