"""The layer without the rest of Argosy, on Flower's own SuperLink and SuperNodes: one mod, one wrapped grid.

    from argosy_common.flower.secure.standalone import secure_mod

    app = ClientApp(mods=[secure_mod])

    from argosy_common.flower.secure.standalone import secure_grid

    strategy.start(grid=secure_grid(grid, context, strategy), ...)

A node keeps its identity key, its journal and the operator's key in a folder of its own: `argosy-secure-dir` of its
node configuration; else a folder named after its id in `$ARGOSY_SECURE_DIR`, or in `argosy-secure` of the user's state
folder. It is made at first use. Nodes without Flower's authentication keys get a new id whenever they start, so only
the first of the three lasts. A node answers secure messages only, unless its configuration says `argosy-secure =
"allowed"`: else a server that leaves the layer out would be given plain updates.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import Context, Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from argosy_common.blobs.store import storage_errors
from argosy_common.errors import ArgosyError, SecureRequired, SecureStateLost
from argosy_common.files import PRIVATE_FILE, private_folder
from argosy_common.flower.layer import GridLayer
from argosy_common.flower.secure import HOLDER, SECAGG, is_secure, parcels
from argosy_common.flower.secure.keep import Keep
from argosy_common.flower.secure.mod import Call, SecureMod
from argosy_common.flower.secure.parcels import Stage
from argosy_common.logs import ReadableFormatter
from argosy_common.run_settings import SecureSettings
from argosy_common.secure_home import SecureHome
from argosy_common.x509 import device_id, generate_identity_key, save_key

if TYPE_CHECKING:
    from argosy_common.flower.rounds import Report
    from argosy_common.flower.secure.grid import SecureGrid
    from argosy_common.secure_ledger import Ledger

FOLDER = "argosy-secure-dir"
"""The key of a node's configuration that says where it keeps its own side of secure rounds."""
CHOICE = "argosy-secure"
"""The key that says whether it answers plain messages too: `allowed`, or `required`, which is the default."""
STATE = "ARGOSY_SECURE_DIR"
"""The environment variable that says where nodes, and the server, keep theirs by default."""

CARRIER = "train"
"""The message type under which holders are asked. Flower calls the mods of an app only for types that it has functions
for, and every app that is trained has one for this."""

log = logging.getLogger("flwr")  # what Flower prints, in its own form


# --- the device's half ----------------------------------------------------------------------------------------------


def secure_mod(message: Message, context: Context, call_next: Call) -> Message:
    """Answer one message; see the module. A named refusal is a reply, of which Flower would make words for its log.

    Raises:
        SecureRequired: a plain message, to a node that answers secure ones only.
    """
    kind = message.metadata.message_type
    if not is_secure(message):
        if context.node_config.get(CHOICE) != "allowed":
            raise SecureRequired(what=f"a plain '{kind}'")
        return call_next(message, context)
    if kind == CARRIER and message.content.config_records[SECAGG].get("stage") != Stage.UPDATE:
        message.metadata.message_type = HOLDER
    try:
        with _opened(_device_folder(context)) as keep:
            reply = SecureMod(keep)(message, context, call_next)
    except ArgosyError as error:
        log.warning("[secure] refused: %s: %s", error.code, error.message)
        reply = Message(parcels.refusal(error), reply_to=message)
    reply.metadata.message_type = kind
    return reply


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[Keep]:
    """Open a node's own side, and make what is missing. One message at a time, whatever processes they are for."""
    with _errors(folder):
        private_folder(folder)
        handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, PRIVATE_FILE)
    try:
        with _errors(folder):
            fcntl.flock(handle, fcntl.LOCK_EX)
            home = _home(folder)
        keep = Keep(home)
        try:
            yield keep
        finally:
            keep.journal.close()
    finally:
        fcntl.flock(handle, fcntl.LOCK_UN)  # at once, though a child of the app may hold the file open
        os.close(handle)


def _home(folder: Path) -> SecureHome:
    """Return what a folder holds; its key is made where there is none."""
    key, operator = folder / "identity.key", folder / "operator.pub"
    if not key.exists():
        made = generate_identity_key()
        save_key(key, made)
        log.info("[secure] this node is %s from now on; its identity is in %s", device_id(made.public_key()), folder)
    return SecureHome(folder, key, operator if operator.exists() else None, required=True)


def _device_folder(context: Context) -> Path:
    named = context.node_config.get(FOLDER)
    return Path(str(named)).expanduser() if named else _state_folder() / str(context.node_id)


def _state_folder() -> Path:
    if named := os.environ.get(STATE):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "argosy-secure"


@contextlib.contextmanager
def _errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SecureStateLost(path=folder, why=error) from error


# --- the coordinator's half -----------------------------------------------------------------------------------------


def secure_grid(
    grid: Grid,
    context: Context,
    strategy: Strategy,
    *,
    settings: SecureSettings | None = None,
    fleet: tuple[int, bytes] | None = None,
    ledger: Ledger | None = None,
    report: Report | None = None,
) -> SecureGrid:
    """Return a grid, around Flower's own, that hands the strategy one reply a phase: the mean under the mask.

    Args:
        grid, context: as the server app is given them, the run's configuration unchanged: nodes are given the same.
        strategy: the one that will use the grid.
        settings, fleet, report: as for `SecureGrid`. What happens is also told in Flower's log.
        ledger: where sets and endings are written down; by default in `ledger` of the server's state folder, so that a
            run that begins with the very model of an earlier one can show nodes how that ended.

    Raises:
        SecureUnsuitable: the strategy looks at single updates.
        StorageFailed: the ledger's folder cannot be made.
    """
    from argosy_common.flower.secure.grid import SecureGrid  # noqa: PLC0415  (nodes import this module, and not that)
    from argosy_common.secure_ledger import Ledger  # noqa: PLC0415

    if ledger is None:
        folder = _state_folder() / "ledger"
        with storage_errors(folder, 0):
            ledger = Ledger(folder)
    _show_logs()

    def tell(name: str, data: Mapping[str, Any]) -> None:
        for level, line in _lines(name, data):
            log.log(level, "[secure] %s", line)
        if report is not None:
            report(name, data)

    return SecureGrid(
        _Carried(grid),
        settings=settings,
        strategy=strategy,
        run_config=context.run_config,
        fleet=fleet,
        ledger=ledger,
        report=tell,
    )


def _show_logs() -> None:
    """Show what the layer logs and `_lines` does not tell, where nobody has asked for more logs than Flower's own."""
    ours = logging.getLogger("argosy_common")
    if not ours.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(ReadableFormatter(colour=False))
        handler.addFilter(lambda record: record.msg != "secure.refused")
        ours.addHandler(handler)


class _Carried(GridLayer):
    """Flower's grid, on which holders are asked under a type that apps have a function for."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """See `Grid.push_messages`."""
        outgoing = list(messages)
        for message in outgoing:
            if message.metadata.message_type == HOLDER:
                message.metadata.message_type = CARRIER
        return self._grid.push_messages(outgoing)


def _lines(name: str, data: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """Yield an event as lines for people. Nodes are named by the beginning of their identity's fingerprint."""
    where = f"round {data.get('round')}, {data.get('phase')}"
    if name == "secure-refused":
        node = int(data["device"], 16)
        yield logging.WARNING, f"{where}: SuperNode {node} ({data['stage']}): {_told(data['error'])}"
        return
    for device, error in data.get("left_out", {}).items():
        yield logging.WARNING, f"{where}: {device} is not in the sum: {_told(error)}"
    if data["error"]:
        yield logging.ERROR, f"{where}: no sum: {_told(data['error'])}"
        return
    checked = "checked" if data["checked"] else "unchecked, since no more holders answered than are needed"
    counts = f"{len(data['summed'])} of {data['devices']} nodes summed by {data['answers']} holders"
    yield logging.INFO, f"{where}: {counts}, {checked}; weight {data['weight']}, {data['wrapped']} blocks wrapped"
    if data["wrong"]:
        yield logging.WARNING, f"{where}: wrong answers, put right: {', '.join(data['wrong'])}"


def _told(error: Mapping[str, Any]) -> str:
    return f"{error['code']}: {error['message']}"
