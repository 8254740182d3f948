"""The other end of the admin socket: requests out, plain data or named errors back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Self

import httpx

from argosy_common.blobs.store import storage_errors
from argosy_common.errors import CoordinatorUnreachable, ProgrammingError, error_from_wire

Data = dict[str, Any]

TIMEOUT_S = 20.0
_CONNECT_TIMEOUT_S = 5.0


class AdminClient:
    """Calls the admin API on the Unix socket `socket`. Use it as a context manager.

    Every call may raise `CoordinatorUnreachable`, or the named error that the coordinator answered.
    """

    def __init__(self, socket: Path, *, timeout_s: float = TIMEOUT_S) -> None:
        self.socket = socket
        self._timeout_s = timeout_s
        self._http = httpx.Client(
            transport=httpx.HTTPTransport(uds=os.fspath(socket)),
            base_url="http://coordinator/v1",
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_TIMEOUT_S)),
            trust_env=False,
        )

    def __enter__(self) -> Self:
        """Open."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str, *, wait: float = 0.0, **params: str | int) -> Data:
        """Ask; with `wait`, the coordinator may hold the answer for so many seconds."""
        asked: dict[str, str | int | float] = {**params, **({"wait": wait} if wait else {})}
        return self._call(self._http.build_request("GET", path, params=asked, timeout=self._timeout_s + wait))

    def post(self, path: str, body: Data | None = None) -> Data:
        """Do."""
        return self._call(self._http.build_request("POST", path, json=body or {}))

    def put(self, path: str, content: bytes) -> Data:
        """Upload."""
        return self._call(self._http.build_request("PUT", path, content=content))

    def download(self, path: str, target: Path) -> None:
        """Write what is answered into the file `target`, which is whole or absent afterwards.

        Raises:
            DiskFull, StorageFailed: it cannot be written.
        """
        request = self._http.build_request("GET", path)
        try:
            response = self._http.send(request, stream=True)
            if response.is_error:
                response.read()
                raise error_from_wire(response.json())
            partial = target.with_name(f".{target.name}.partial")
            with storage_errors(target), partial.open("wb") as stream:
                for piece in response.iter_bytes():
                    stream.write(piece)
                partial.replace(target)
        except httpx.HTTPError as error:
            raise CoordinatorUnreachable(socket=self.socket, why=self._why(error)) from None

    def _call(self, request: httpx.Request) -> Data:
        try:
            response = self._http.send(request)
        except httpx.HTTPError as error:
            raise CoordinatorUnreachable(socket=self.socket, why=self._why(error)) from None
        try:
            data = response.json()
        except ValueError:
            data = None
        if not isinstance(data, dict):
            raise ProgrammingError(what=f"{request.url.path} answered {response.status_code} and no JSON object")
        if response.is_error:
            raise error_from_wire(data)
        return data

    def _why(self, error: httpx.HTTPError) -> str:
        """Say plainly why the socket does not answer."""
        if isinstance(error, httpx.TimeoutException):
            return f"it did not answer within {self._timeout_s:.0f} s"
        if not self.socket.exists():
            return "there is no such socket"
        if not os.access(self.socket, os.W_OK):
            return f"you may not write to it; it belongs to {self.socket.owner()}:{self.socket.group()}"
        if isinstance(error, httpx.ConnectError):
            return "nobody listens on it"
        return "it broke off the connection"
