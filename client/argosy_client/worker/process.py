"""The worker: `python -m argosy_client.worker.process`, started by `host` and by nobody else.

It loads one app once and runs it on one message after another. Requests and answers are maps over an `ipc.Channel`:

    → {"op": "load", "store", "app_dir", "app_digest", "client_app", "run_id", "node_id", "run_config", "node_config",
       "secure": a `SecureHome` | None}
    ← {"op": "loaded"} | {"op": "failed", "error"}
    → {"op": "run", "message_id", "flower", "context_in": path | None, "context_out": path}
    ← {"op": "done", "message_id", "flower", "blobs": [[digest, size], …], "seconds", "peak_rss"}
      | {"op": "failed", "message_id", "error"}

The context's state is on disk before "done" is sent. The process ends with its parent, whatever the app is doing.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import logging
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from argosy_common import logs
from argosy_common.blobs import BlobStore
from argosy_common.clock import Clock, SystemClock
from argosy_common.errors import (
    AppImportFailed,
    AppRaised,
    ArgosyError,
    MessageUnsendable,
    ProgrammingError,
    ReplyInvalid,
    SecureUnsuitable,
)
from argosy_common.flower.codec import has_plan
from argosy_common.flower.compat import become_task, set_message_id, set_reply_life
from argosy_common.flower.memory import give_back_memory, peak_rss, reset_peak_rss
from argosy_common.flower.messages import DumpedMessage, dump_message, load_message
from argosy_common.flower.secure import is_secure
from argosy_common.flower.state import read_state, write_state
from argosy_common.ipc import Channel
from argosy_common.secure_home import SecureHome

if TYPE_CHECKING:
    from argosy_common.flower.secure.mod import SecureMod

_PR_SET_PDEATHSIG = 1
_OOM_SCORE = "800"
"""The kernel, out of memory, takes the worker and not the daemon."""
_MAX_WHY = 2000


def main() -> None:
    """Serve the parent until it closes the channel."""
    _die_with_parent()
    logs.configure()
    logging.getLogger("flwr").propagate = False  # it writes to this log itself
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # they are TextIOWrappers here
    Worker(Channel.inherited(), SystemClock()).serve()


def _die_with_parent() -> None:
    with suppress(OSError, AttributeError):  # not Linux: the channel's end tells us too
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE, encoding="ascii")


class Worker:
    """One app for one run, in the main thread; another thread listens, to notice the parent's end at any moment."""

    def __init__(self, channel: Channel, clock: Clock) -> None:
        self._channel = channel
        self._clock = clock
        self._requests: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._working = False
        self._app: _HostedApp | None = None

    def serve(self) -> None:
        """Answer requests until the channel ends."""
        threading.Thread(target=self._listen, name="listener", daemon=True).start()
        while (request := self._requests.get()) is not None:
            self._working = True
            self._answer(self._handle(request))
            give_back_memory()
            self._working = False

    def _listen(self) -> None:
        request: dict[str, Any] | None = {}
        while request is not None:
            try:
                request = self._channel.receive()
            except (OSError, ValueError):  # no more requests to be had from this channel
                request = None
            self._requests.put(request)
        if self._working:
            os._exit(0)

    def _answer(self, answer: dict[str, Any]) -> None:
        with suppress(ConnectionError):  # the parent is gone, and the listener ends us
            self._channel.send(answer)

    def _handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer, be it a failure; its traceback goes to the worker's log."""
        try:
            return self._serve_one(request)
        except ArgosyError as error:
            named = error
            traceback.print_exc()
        except Exception as error:  # noqa: BLE001  (our own bug: reported, and the worker lives on)
            named = ProgrammingError(what=f"in the worker: {_told(error)}")
            traceback.print_exc()
        return {"op": "failed", "message_id": request.get("message_id"), "error": named.to_wire()}

    def _serve_one(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["op"] == "load":
            self._app = _HostedApp(request, self._clock)
            gc.collect()
            gc.freeze()  # what was imported stays: later collections need not look at it
            return {"op": "loaded"}
        if request["op"] == "run" and self._app is not None:
            return self._app.run(request)
        raise ProgrammingError(what=f"the worker was asked to {request['op']}")


@contextmanager
def _this_process_only() -> Iterator[None]:
    """End, at the end of the block, what is a fork of the process that entered it: it must not answer as well."""
    entered = os.getpid()
    try:
        yield
    finally:
        if os.getpid() != entered:
            os._exit(0)


class _HostedApp:
    """The client app, and who and where it is.

    Raises:
        AppImportFailed: it does not import or is not a `ClientApp`.
    """

    def __init__(self, request: dict[str, Any], clock: Clock) -> None:
        self._clock = clock
        self._store = BlobStore(Path(request["store"]))
        self._run_id: int = request["run_id"]
        self._node_id: int = request["node_id"]
        self._run_config: dict[str, Any] = request["run_config"]
        self._node_config: dict[str, Any] = request["node_config"]
        self._folder = Path(request["app_dir"])
        self._digest: str = request["app_digest"]
        self._client_app: str = request["client_app"]
        self._home = SecureHome.from_wire(request["secure"]) if request["secure"] else None
        self._secure: SecureMod | None = None
        become_task(run_id=self._run_id, node_id=self._node_id)
        quiet = self._home is not None and self._home.required
        self._app = _import_app(self._folder, self._client_app, quiet=quiet)

    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run the app on one message; see the module's text for the request and the answer."""
        reset_peak_rss()
        began = self._clock.monotonic()
        dumped = self._reply(request)
        return {
            "op": "done",
            "message_id": request["message_id"],
            "flower": dumped.flower,
            "blobs": [[blob.digest, blob.size] for blob in dumped.blobs],
            "seconds": self._clock.monotonic() - began,
            "peak_rss": peak_rss(),
        }

    def _reply(self, request: dict[str, Any]) -> DumpedMessage:
        message = load_message(request["flower"], self._store, peer="the coordinator")
        set_message_id(message, request["message_id"])
        meta = message.metadata
        born, life = meta.created_at, meta.ttl
        meta.created_at = self._clock.wall().timestamp()  # the app sees a message of now, whatever this clock says
        before = None if request["context_in"] is None else Path(request["context_in"])
        state = RecordDict() if before is None else read_state(before)
        context = Context(self._run_id, self._node_id, dict(self._node_config), state, dict(self._run_config))
        reply = self._call(message, context)
        del message, state  # the app is done with them: what they hold need not be in memory while we write
        set_reply_life(reply, created_at=born, ttl=life)
        try:
            dumped = dump_message(reply, self._store)
            write_state(context.state, Path(request["context_out"]), before=before)
        except MessageUnsendable as error:
            raise ReplyInvalid(why=error.facts.get("why", error.message)) from error
        return dumped

    def _call(self, message: Message, context: Context) -> Message:
        try:
            with _this_process_only():
                reply: object = self._app_or_mod(message, context)
        except ArgosyError:
            raise  # a stored array that could not be read, say, or an update with NaN in it
        except BaseException as error:  # sys.exit() in an app must not end the worker
            raise AppRaised(why=_told(error, self._folder)) from error
        if not isinstance(reply, Message):
            raise ReplyInvalid(why=f"it is of type {type(reply).__name__}, not a Message")
        theirs, ours = reply.metadata, message.metadata
        if theirs.reply_to_message_id != ours.message_id or theirs.dst_node_id != ours.src_node_id:
            raise ReplyInvalid(why="it does not reply to the message that was given")
        if not isinstance(context.state, RecordDict):
            raise ReplyInvalid(why=f"the app made context.state a {type(context.state).__name__}")
        return reply

    def _app_or_mod(self, message: Message, context: Context) -> Message:
        """Call the app, through the mods that the instruction asks for."""
        if is_secure(message) or (self._home and self._home.required):
            return self._secure_mod()(message, context, self._app)
        if not has_plan(message):
            return self._app(message, context)
        from argosy_common.flower.codec.mod import codec_mod  # noqa: PLC0415  (10 MB that other boards can spare)

        return codec_mod(message, context, self._app)

    def _secure_mod(self) -> SecureMod:
        if self._home is None:
            raise SecureUnsuitable(what="this device", why="it was started without its identity")
        if self._secure is None:
            from argosy_common.flower.secure.digest import app_digest  # noqa: PLC0415  (likewise)
            from argosy_common.flower.secure.keep import Keep  # noqa: PLC0415  (likewise)
            from argosy_common.flower.secure.mod import SecureMod  # noqa: PLC0415

            app = app_digest(bytes.fromhex(self._digest), self._client_app)
            self._secure = SecureMod(Keep(self._home), app=app, own_node=True)
        return self._secure


def _import_app(folder: Path, reference: str, *, quiet: bool) -> ClientApp:
    """Import `module:attribute` from `folder`. Raises `AppImportFailed`; `quiet` keeps what an exception says here."""
    module, _, attribute = reference.partition(":")
    sys.path.insert(0, str(folder))
    try:
        with _this_process_only():
            found: object = importlib.import_module(module)
        for name in attribute.split("."):
            found = getattr(found, name)
    except BaseException as error:
        words = f"{type(error).__name__}; its words stay in the device's log" if quiet else _told(error, folder)
        raise AppImportFailed(component=reference, why=words) from error
    if not isinstance(found, ClientApp):
        raise AppImportFailed(component=reference, why=f"it is of type {type(found).__name__}, not a ClientApp")
    return found


def _told(error: BaseException, folder: Path | None = None) -> str:
    """Return an exception's type and message, and the innermost line of the app that it passed."""
    text = f"{type(error).__name__}: {error}".strip().removesuffix(":")
    passed = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in passed if folder and Path(frame.filename).is_relative_to(folder)]
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return text[:_MAX_WHY] + where


if __name__ == "__main__":
    main()
