"""A coordinator's HTTPS port that runs models for boards: real TLS, a real registry, a real process; and its boards."""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from argosy_client import identity as identity_files
from argosy_client.inference.folder import CURRENT, GOLDEN, MANIFEST, ONNX, Version
from argosy_client.inference.placement.plan import Plan
from argosy_common import x509
from argosy_common.artefact.golden import pack_golden
from argosy_common.artefact.manifest import Golden, Tensor
from argosy_common.blobs import BlobStore
from argosy_common.clock import SystemClock
from argosy_common.enrolment import BrokerAddress
from argosy_common.files import private_folder
from argosy_common.link import TlsFiles
from argosy_common.link.tls import client_context
from argosy_common.offload import TensorForm, infer_path
from argosy_server.ca import CertificateAuthority
from argosy_server.enrolment import EnrolmentServer
from argosy_server.models.draft import Draft, Origin
from argosy_server.models.registry import ModelRegistry
from argosy_server.models.remote_host import RemoteHost
from argosy_server.offload import Offload
from argosy_server.store import Store
from tests.models import CLASSES, LABELS, SHAPE, answers, blob, windows
from tests.waiting import until

LOOPBACK = "127.0.0.1"


class Bench:
    """A coordinator with what this is about, and nothing else. Its port stays the same when it comes back."""

    def __init__(self, folder: Path, *, enabled: bool = True, queue: int = 16) -> None:
        clock = SystemClock()
        self.folder = private_folder(folder)
        self.ca = CertificateAuthority.open(folder / "ca", clock)
        self.blobs = BlobStore(folder / "blobs")
        self.store = Store.open(f"sqlite:///{folder / 'coordinator.db'}", clock)
        self.registry = ModelRegistry(self.store, self.blobs, self.ca, clock=clock)
        self.revoked: set[str] = set()
        self._enabled, self._queue, self._port = enabled, queue, 0
        self.start()

    def start(self) -> None:
        clock = SystemClock()
        self.host = RemoteHost(threads=1, log_level="INFO", clock=clock, rng=random.Random(1))
        host = self.host if self._enabled else None
        self.offload = Offload(host, self.registry, lambda device, _: device not in self.revoked, queue=self._queue)
        self.server = EnrolmentServer(
            self.store, self.ca, clock=clock, host=LOOPBACK, port=self._port, hosts=[LOOPBACK], brokers=list,
            offload=self.offload,
        )  # fmt: skip
        self.server.start()
        self._port = self.server.address[1]
        assert not self._enabled or until(lambda: self.host._channel is not None)

    def stop(self) -> None:
        self.server.stop()
        assert self.host.pid is None

    def close(self) -> None:
        self.stop()
        self.store.close()

    # --- versions

    def add(self, model: bytes, *, name: str = "har", exits: tuple[str, ...] = (), **fields: Any) -> str:  # noqa: ANN401
        """Register a model's next version; return its reference."""
        inputs = windows(4)
        golden = pack_golden(inputs, answers(model, inputs))
        for each in (model, golden):
            self.blobs.put_bytes(each)
        draft = Draft(
            onnx=blob(model),
            golden=Golden(blob=blob(golden), count=len(inputs)),
            input=Tensor(name="x", shape=list(SHAPE)),
            output=Tensor(name="y", shape=[CLASSES]),
            exits=[Tensor(name=each, shape=[CLASSES]) for each in exits],
            labels=LABELS,
            **fields,
        )
        return self.registry.add(name, draft, Origin(), actor="test").reference

    def deploy(self, board: Board, reference: str) -> Version:
        """Put a version in force on a board, as a rollout does in the end."""
        row = self.store.models.get(reference)
        folder = board.state / "models" / row.name / str(row.version)
        folder.mkdir(parents=True)
        (folder / MANIFEST).write_bytes(row.manifest)
        (folder / ONNX).write_bytes(self.blobs.path(bytes.fromhex(row.onnx_digest)).read_bytes())
        (folder / GOLDEN).write_bytes(self.blobs.path(bytes.fromhex(row.golden_digest)).read_bytes())
        (folder.parent / CURRENT).write_text(f'{{"version": {row.version}, "previous": null}}')
        return Version.open(folder)

    # --- boards

    def board(self) -> Board:
        """Return a new board that has joined."""
        identity, tls = x509.generate_identity_key(), x509.generate_key()
        device = x509.device_id(identity.public_key())
        state = private_folder(self.folder / device)
        x509.save_key(state / identity_files.IDENTITY_KEY, identity)
        x509.save_key(state / identity_files.TLS_KEY, tls)
        chain = self.ca.issue_device(device, tls.public_key())
        (state / identity_files.CERTIFICATE).write_bytes(x509.chain_pem(*chain))
        (state / identity_files.CA).write_text(self.ca.pem)
        identity_files.write_record(
            state,
            identity_files.Record(
                device=device,
                site="default",
                url=f"https://{LOOPBACK}:{self._port}",
                pin=self.ca.pin,
                token_id="0" * 8,
                brokers=[BrokerAddress(host=LOOPBACK, port=1)],
            ),
        )
        return Board(state, device)

    def connect(self, files: TlsFiles | None) -> ssl.SSLSocket:
        context = client_context(files) if files else x509.coordinator_trust(self.ca.pem)
        plain = socket.create_connection((LOOPBACK, self._port), 20)
        return context.wrap_socket(plain, server_hostname=x509.COORDINATOR)

    @contextlib.contextmanager
    def asked(
        self, board: Board | None, path: str, body: bytes, headers: dict[str, str]
    ) -> Iterator[http.client.HTTPResponse]:
        """Ask by hand, on a connection of its own."""
        connection = http.client.HTTPConnection(LOOPBACK)
        connection.sock = self.connect(board.files if board else None)
        try:
            connection.request("POST", path, body, headers)
            yield connection.getresponse()
        finally:
            connection.close()


class Board:
    """A board's state directory, with an enrolment."""

    def __init__(self, state: Path, device: str) -> None:
        self.state = state
        self.device = device

    @property
    def files(self) -> TlsFiles:
        return identity_files.Enrolment.load(self.state).tls_files()


def request(tensor: NDArray[np.generic], name: str = "x", version: int = 1) -> tuple[str, bytes, dict[str, str]]:
    """Return path, body and headers of a request that goes on from a tensor."""
    form = TensorForm(str(tensor.dtype), tensor.shape)
    return infer_path("har", version, name), tensor.tobytes(), form.headers()


def plan_for(version: Version, tensor: str = "", **fields: Any) -> Plan:  # noqa: ANN401  (the plan's)
    """Return a plan that sends a tensor away; the input is called x."""
    return Plan(
        model=version.manifest.reference,
        onnx=version.manifest.onnx.digest,
        way="remote" if tensor == "x" else "split",
        tensor=tensor,
        **fields,
    )
