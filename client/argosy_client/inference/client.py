"""Ask the models on this board: numpy in, numpy out.

from argosy_client.inference import Client

with Client() as models:
    outputs = models.infer("har", window, deadline_ms=50)
    label, confidence = models.classify("har", window)
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from argosy_client.inference import protocol
from argosy_common.errors import ArgosyError, InferenceUnreachable, error_from_wire

SOCKET_NAME = "inference.sock"
_PAUSES_S = (0.05, 0.2, 0.8)
"""Before further attempts to connect: the process may just be starting again."""
_PATIENCE_S = 10.0
"""How long an answer may take beyond its deadline."""


def default_socket() -> Path:
    """Return where the daemon of this machine serves: `ARGOSY_INFERENCE_SOCKET`, or the service's own place."""
    return Path(os.environ.get("ARGOSY_INFERENCE_SOCKET", f"/var/lib/argosy-device/{SOCKET_NAME}"))


class Client:
    """A connection to the inference process. For one thread; connects by itself, and anew after a failure."""

    def __init__(self, path: Path | str | None = None) -> None:
        """`path` is the socket; None: the daemon's of this machine."""
        self._path = Path(path) if path is not None else default_socket()
        self._sock: socket.socket | None = None
        self._stream: IO[bytes] | None = None

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(self, *_: object) -> None:
        """Hang up."""
        self.close()

    def infer(self, model: str, inputs: ArrayLike, *, deadline_ms: float | None = None) -> NDArray[Any]:
        """Return the model's outputs for one raw input, or for a batch of them; shape (n, …), a batch of one included.

        Raises:
            InferenceUnreachable: no inference process answers.
            ModelMissing, InputInvalid, ModelBusy, DeadlinePassed, NoBackend: it says no, by name.
        """
        fields, body = self._ask(model, np.asarray(inputs), deadline_ms)
        return protocol.tensor_of({"model": model, **fields}, body)

    def classify(self, model: str, inputs: ArrayLike, *, deadline_ms: float | None = None) -> tuple[str, float]:
        """Return the label of one raw input and how sure the model is of it, 0 to 1.

        Raises:
            As `infer`.
        """
        fields, _ = self._ask(model, np.asarray(inputs), deadline_ms, classify=True)
        return str(fields["label"]), float(fields["confidence"])

    def models(self) -> list[dict[str, Any]]:
        """Return what is served: version, backend, what really runs it, figures.

        Raises:
            InferenceUnreachable: no inference process answers.
        """
        fields, _ = self._exchange({"do": "models"}, None, _PATIENCE_S)
        return list(fields["models"])

    def close(self) -> None:
        """Hang up; the next question connects anew."""
        if self._stream is not None:
            self._stream.close()
        if self._sock is not None:
            self._sock.close()
        self._sock = self._stream = None

    def _ask(
        self, model: str, inputs: NDArray[Any], deadline_ms: float | None, *, classify: bool = False
    ) -> tuple[dict[str, Any], bytearray]:
        fields: dict[str, Any] = {"do": "infer", "model": model, **protocol.described(inputs)}
        if classify:
            fields["classify"] = True
        if deadline_ms is not None:
            fields["deadline_ms"] = float(deadline_ms)
        return self._exchange(fields, inputs, _PATIENCE_S + (deadline_ms or 0.0) / 1000.0)

    def _exchange(
        self, fields: dict[str, Any], tensor: NDArray[Any] | None, patience_s: float
    ) -> tuple[dict[str, Any], bytearray]:
        """Ask once; once more on a new connection where the old one had ended meanwhile."""
        for attempt in range(2):
            fresh = self._sock is None
            sock, stream = self._connected()
            try:
                sock.settimeout(patience_s)
                protocol.send(sock, fields, tensor)
                answer = protocol.receive(stream)
            except (OSError, protocol.BrokenFrame) as error:
                self.close()
                if isinstance(error, TimeoutError) or fresh or attempt:
                    raise InferenceUnreachable(path=self._path, why=str(error) or "it stopped answering") from None
                continue
            if answer is not None:
                break
            self.close()
        else:
            raise InferenceUnreachable(path=self._path, why="it hung up")
        told, body = answer
        if "error" in told:
            raise _error(told["error"])
        return told, body

    def _connected(self) -> tuple[socket.socket, IO[bytes]]:
        if self._sock is not None and self._stream is not None:
            return self._sock, self._stream
        why = ""
        for pause in (0.0, *_PAUSES_S):
            time.sleep(pause)
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.connect(str(self._path))
            except OSError as error:
                sock.close()
                why = error.strerror or str(error)
                continue
            self._sock, self._stream = sock, sock.makefile("rb")
            return sock, self._stream
        raise InferenceUnreachable(path=self._path, why=why)


def _error(told: Any) -> ArgosyError:  # noqa: ANN401  (whatever the process said)
    return error_from_wire(told if isinstance(told, dict) else {})
