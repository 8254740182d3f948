"""The same models over HTTP on loopback, for programs that speak nothing else. The socket is several times faster.

    GET  /v1/models                  what is served
    POST /v1/models/NAME             a JSON object {"inputs": [[…]]}, or application/octet-stream with X-Shape and
                                     X-Dtype, or image/jpeg or image/png where the model takes pictures
         ?deadline_ms=50&classify=1

Only 127.0.0.1 is listened on, and a request must name it as its host: a page in a browser cannot ask through a name
that it makes point here.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from argosy_client.inference import protocol
from argosy_client.inference.serving import Answer, Serving, told
from argosy_common.errors import (
    ArgosyError,
    DeadlinePassed,
    InputInvalid,
    ModelBusy,
    ModelMissing,
    SettingsInvalid,
)
from argosy_common.logs import get_logger

log = get_logger(__name__)

LOOPBACK = "127.0.0.1"
PREFIX = "/v1/models"
MAX_JSON = 8 * 1024 * 1024
_TIMEOUT_S = 30.0
_OCTETS, _JSON = "application/octet-stream", "application/json"
_PICTURES = ("image/jpeg", "image/png")
_STATUS: dict[type[ArgosyError], int] = {ModelMissing: 404, InputInvalid: 400, ModelBusy: 503, DeadlinePassed: 504}


class HttpServer:
    """Answers on a port of 127.0.0.1 (0: a free one) between `start` and `stop`."""

    def __init__(self, port: int, serving: Serving) -> None:
        try:
            self._server = _Server((LOOPBACK, port), _Handler)
        except OSError as error:
            raise SettingsInvalid(name="inference.http", why=error.strerror or error, source="the settings") from None
        self._server.serving = serving
        self._thread = threading.Thread(target=self._server.serve_forever, name="inference-http", daemon=True)

    @property
    def port(self) -> int:
        """The real port."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    serving: Serving


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _TIMEOUT_S
    server: _Server

    def do_GET(self) -> None:
        """Tell what is served."""
        if not self._is_for_us():
            return
        if self.path.rstrip("/") != PREFIX:
            self._say(404, {"code": "not-found", "message": f"GET {PREFIX}, or POST {PREFIX}/NAME"})
            return
        self._say(200, {"models": [loaded.stats() for loaded in self.server.serving.all()]})

    def do_POST(self) -> None:
        """Answer one request."""
        if not self._is_for_us():
            return
        parts = urlsplit(self.path)
        name = parts.path.removeprefix(f"{PREFIX}/")
        try:
            raw = self._raw(name)
            options = parse_qs(parts.query)
            deadline = float(options["deadline_ms"][0]) / 1000.0 if "deadline_ms" in options else None
            classify = options.get("classify", ["0"])[0] == "1"
            answer = self.server.serving.infer(name, raw, deadline_s=deadline, classify=classify)
        except ValueError as error:
            self._say(400, {"code": InputInvalid.code, "message": f"The request cannot be read: {error}"})
        except Exception as error:  # noqa: BLE001  (a caller's request must never end the process)
            self._say(_STATUS.get(type(error), 500) if isinstance(error, ArgosyError) else 500, told(error))
        else:
            self._give(answer, classify=classify)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the standard library's name)
        """Keep the log for what matters."""
        log.debug("inference.http", said=format % args)

    def _is_for_us(self) -> bool:
        host = self.headers.get("Host", "").rpartition(":")[0]
        good = host in {LOOPBACK, "localhost"}
        if not good:
            self._say(403, {"code": "forbidden", "message": f"The request is for {host!r}, and this is {LOOPBACK}."})
        return good

    def _raw(self, name: str) -> np.ndarray[Any, Any] | bytes:
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        length = int(self.headers.get("Content-Length", "0"))
        limit = MAX_JSON if kind == _JSON else protocol.MAX_TENSOR
        if not 0 < length <= limit:
            self.close_connection = True
            raise InputInvalid(model=name[:80], why=f"it has {length} bytes; 1 to {limit} are taken")
        body = self.rfile.read(length)
        if kind in _PICTURES:
            return body
        if kind == _OCTETS:
            shape = [int(n) for n in self.headers.get("X-Shape", "").split(",")]
            return protocol.tensor_of(
                {"dtype": self.headers.get("X-Dtype", "float32"), "shape": shape}, bytearray(body)
            )
        if kind == _JSON:
            told = json.loads(body)
            return np.asarray(told["inputs"] if isinstance(told, dict) else None, dtype=np.float32)
        raise InputInvalid(model=name[:80], why=f"{kind or 'nothing'} is no content type that is taken")

    def _give(self, answer: Answer, *, classify: bool) -> None:
        manifest = answer.manifest
        if self.headers.get("Accept", "").startswith(_OCTETS):
            body = np.ascontiguousarray(answer.outputs).tobytes()
            shape = ",".join(map(str, answer.outputs.shape))
            self._write(200, body, _OCTETS, {"X-Shape": shape, "X-Dtype": str(answer.outputs.dtype)})
            return
        named = {"label": answer.label, "confidence": answer.confidence} if classify else {}
        self._say(200, {"version": manifest.version, "outputs": answer.outputs.tolist(), **named})

    def _say(self, status: int, data: dict[str, Any]) -> None:
        self._write(status, json.dumps(data).encode(), _JSON, {})

    def _write(self, status: int, body: bytes, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)
