"""The process that runs parts of models for devices: `python -m argosy_server.models.remote_process THREADS`.

Started by `remote_host`, with a channel to it: requests in, answers out, one at a time and in order. It opens ONNX
files out of the coordinator's blobs, whose digests it checks, and cuts them where a device asks. A model that crashes
the runtime ends this process and nothing else.
"""

from __future__ import annotations

import hashlib
import queue
import sys
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from argosy_common import logs
from argosy_common.artefact.cut import Graph
from argosy_common.errors import (
    ArgosyError,
    ArtefactInvalid,
    CutImpossible,
    DeadlinePassed,
    InputInvalid,
    OffloadUnavailable,
)
from argosy_common.ipc import Channel
from argosy_common.logs import get_logger
from argosy_common.offload import MAX_BATCH

log = get_logger(__name__)

OPEN_PARTS = 8
"""Parts that are kept open; the one that was asked for the longest time ago goes first."""


class Part:
    """What makes a model's answer of one of its tensors, open in ONNX Runtime."""

    def __init__(self, onnx: bytes, tensor: str, output: str, *, threads: int) -> None:
        """Open it.

        Raises:
            CutImpossible, CutToolsMissing: it cannot be cut there.
        """
        import onnxruntime  # noqa: PLC0415  (an extra; its absence is told to who asks)

        graph = Graph(onnx)
        self.place = graph.place(tensor, output)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        data = graph.part(tensor, [output]) if tensor != graph.input else onnx
        self._session: Any = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        self._output = output

    def run(self, model: str, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the answers.

        Raises:
            InputInvalid: the array is not of this tensor's form.
        """
        place = self.place
        if array.dtype != place.dtype or array.shape[1:] != place.shape or not 0 < len(array) <= MAX_BATCH:
            wanted = f"{list(place.shape)} of {place.dtype}, at most {MAX_BATCH} of them"
            why = f"{place.tensor} is a batch of {wanted}, not {list(array.shape)} of {array.dtype}"
            raise InputInvalid(model=model, why=why)
        found: np.ndarray[Any, Any] = self._session.run([self._output], {place.tensor: array})[0]
        return found


class Parts:
    """The parts that are open."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._open: OrderedDict[tuple[str, str], Part] = OrderedDict()

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Run what is asked; return the answer's fields.

        Raises:
            ArgosyError: by name, what is wrong with the request or the model.
        """
        model = str(asked["model"])
        if time.monotonic() >= asked["deadline"]:
            raise DeadlinePassed(model=model, deadline_ms=round(asked["deadline_ms"]))
        part = self._part(model, asked)
        array = np.frombuffer(asked["tensor"], dtype=asked["dtype"]).reshape(asked["shape"])
        began = time.perf_counter()
        outputs = np.ascontiguousarray(part.run(model, array))
        run_ms = (time.perf_counter() - began) * 1000.0
        return {
            "tensor": outputs.tobytes(),
            "dtype": str(outputs.dtype),
            "shape": list(outputs.shape),
            "run_ms": run_ms,
        }

    def _part(self, model: str, asked: dict[str, Any]) -> Part:
        key = (asked["digest"], asked["from"])
        if key not in self._open:
            data = Path(asked["path"]).read_bytes()
            if hashlib.sha256(data).hexdigest() != asked["digest"]:
                raise ArtefactInvalid(what=f"file {asked['path']}", why="it changed on the coordinator's disk")
            self._open[key] = Part(data, asked["from"], asked["output"], threads=self._threads)
            log.info("remote.open", model=model, tensor=asked["from"])
            while len(self._open) > OPEN_PARTS:
                self._open.popitem(last=False)
        self._open.move_to_end(key)
        return self._open[key]


def told(parts: Parts, asked: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to a request, or a named error in its place."""
    try:
        answer = parts.answer(asked)
    except CutImpossible as error:
        answer = {"error": InputInvalid(model=asked["model"], why=error.message).to_wire()}
    except ArgosyError as error:
        answer = {"error": error.to_wire()}
    except Exception as error:  # noqa: BLE001  (whatever a runtime makes of a model or an input)
        log.warning("remote.failed", model=asked["model"], exc=error)
        why = (str(error).splitlines() or [type(error).__name__])[0][:300]
        answer = {"error": OffloadUnavailable(model=asked["model"], why=why).to_wire()}
    return {"id": asked["id"], **answer}


def main() -> int:
    """Be the process until the daemon closes the channel."""
    threads, level = sys.argv[1:3]
    logs.configure(level)
    channel = Channel.inherited()
    waiting: queue.Queue[dict[str, Any] | None] = queue.Queue()  # bounded by whom the daemon admits

    def listen() -> None:
        while (asked := channel.receive()) is not None:
            waiting.put(asked)
        waiting.put(None)

    threading.Thread(target=listen, name="requests", daemon=True).start()
    parts = Parts(int(threads))
    channel.send({"ready": True})
    while (asked := waiting.get()) is not None:
        try:
            channel.send(told(parts, asked))
        except ConnectionError:
            break
    return 0


if __name__ == "__main__":
    sys.exit(main())
