"""A tiny coordinator for device tests: a real broker, link and blob exchange, and a record of all that it hears."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from argosy_client import identity as identity_files
from argosy_client.commands import read_status
from argosy_client.identity import Enrolment
from argosy_client.settings import load_settings
from argosy_common import x509
from argosy_common.blobs import BlobRef, BlobStore
from argosy_common.blobs.exchange import BlobExchange
from argosy_common.bundle import pack
from argosy_common.clock import SystemClock
from argosy_common.enrolment import BrokerAddress
from argosy_common.files import private_folder, write_atomic
from argosy_common.link import Delivery, Link, LinkSettings
from argosy_common.wire import topics
from argosy_common.wire.bodies import (
    Accept,
    Birth,
    BlobPart,
    Body,
    Cancel,
    ChunkAck,
    Done,
    Fetch,
    Instruction,
    Offer,
    Received,
    Reply,
    TransferFailed,
    open_body,
)
from argosy_common.wire.envelope import Envelope, decode, encode, new_id
from argosy_server.broker import Broker, open_broker
from argosy_server.settings import BrokerTable
from tests.pki import Pki
from tests.waiting import PATIENCE_S, until

B = TypeVar("B", bound=Body)
SITE, SINK = "default", "w0"
TRANSFER = (Fetch, Offer, Accept, ChunkAck, Done, TransferFailed)
APP = """
import os, pathlib, signal, time
import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()
FOLDER = pathlib.Path(os.environ["TEST_FOLDER"])


@app.train()
def train(message: Message, context: Context) -> Message:
    config = message.content["config"]
    with (FOLDER / "trained").open("a") as log:
        log.write(f"{message.metadata.message_id}\\n")
    count = int(context.state["count"]["n"]) + 1 if "count" in context.state else 1
    context.state["count"] = ConfigRecord({"n": count})
    if config["do"] == "hang" and not (FOLDER / "go").exists():
        time.sleep(3600)
    if config["do"] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if config["do"] == "raise":
        raise ValueError("no " + "data " * 50_000)
    arrays = [array + 1 for array in message.content["arrays"].to_numpy_ndarrays()]
    metrics = MetricRecord({"count": count, "num-examples": 3})
    return Message(RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics}), reply_to=message)
"""


@dataclass(frozen=True)
class Heard:
    """A message from a device."""

    device: str
    envelope: Envelope
    body: Body
    raw: bytes


@dataclass
class DeviceProcess:
    """An enrolled device, and its daemon when it runs."""

    folder: Path
    enrolment: Enrolment
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None

    @property
    def id(self) -> str:
        return self.enrolment.device

    @property
    def log(self) -> str:
        return (self.folder.parent / "device.log").read_text(errors="replace")

    def status(self) -> dict[str, Any]:
        """What `argosy-device status` tells."""
        return read_status(load_settings(None, state_dir=self.folder)).as_json()

    def has_nothing_to_do(self) -> bool:
        """Tell whether every instruction in the journal is over."""
        return set(self.status()["instructions"]) <= {"delivered", "cancelled"}

    def spawn(self) -> subprocess.Popen[bytes]:
        with (self.folder.parent / "device.log").open("ab") as output:
            command = [sys.executable, "-m", "argosy_client.cli", "run", "--state-dir", str(self.folder)]
            return subprocess.Popen(command, env=self.environment, stdout=output, stderr=output)

    def start(self) -> None:
        self.process = self.spawn()

    def end(self, number: signal.Signals) -> int:
        """Send a signal and return the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE_S)
        self.process = None
        return code


def code_of(reply: Reply) -> str | None:
    """Return the code of the error that stands for an answer; None for a good one."""
    return reply.error.code if reply.error else None


@dataclass
class Harness:
    """The coordinator's end, as thin as the wire allows."""

    root: Path
    give_receipts: bool = True
    heard: list[Heard] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pki = Pki(self.root / "pki")
        clock = SystemClock()
        settings = BrokerTable.model_validate({"kind": "mosquitto", "host": "127.0.0.1", "port": 0})
        self.broker: Broker = open_broker(
            settings, self.pki.server(), self.root / "broker", clock=clock, rng=random.Random(1)
        )
        self.broker.start()
        host, port = self.broker.address
        tls = self.pki.client(x509.COORDINATOR)
        link_settings = LinkSettings(host, port, x509.COORDINATOR, tls, backoff_cap_s=0.3)
        self.link = Link(link_settings, clock=clock, rng=random.Random(2))
        self.store = BlobStore(self.root / "coordinator-blobs")
        self.exchange = BlobExchange(
            self.store,
            clock=clock,
            sink=SINK,
            post=self.post,
            post_chunk=lambda device, _sink, frame: self.link.publish(self.names(device).chunks_down, frame, qos=0),
            allow_upload=lambda _device, _offer: None,
        )
        self._changed = threading.Condition()
        self._online: set[str] = set()
        for each in topics.COORDINATOR_FILTERS:
            self.link.subscribe(each, self._hear, qos=1)
        self.link.subscribe(topics.chunk_filter(SINK), self._hear_chunk, qos=0)
        self.link.on_up(lambda _present: self._each_online(self.exchange.peer_up))
        self.link.on_down(lambda _why: self._each_online(self.exchange.peer_down))
        self.link.start()
        assert self.link.wait_connected(PATIENCE_S), self.link.last_error
        self._stopping = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)
        self._ticker.start()

    def forget(self) -> None:
        """Begin a new test."""
        self.give_receipts = True
        with self._changed:
            self.heard.clear()
        for name in ("trained", "go"):
            (self.root / name).unlink(missing_ok=True)

    @property
    def trained(self) -> list[str]:
        """The ids of the messages that an app has begun to train on, in order."""
        path = self.root / "trained"
        return path.read_text().split() if path.exists() else []

    def close(self) -> None:
        self._stopping.set()
        self._ticker.join()
        self.exchange.close()
        self.link.stop(1.0)
        self.broker.stop()

    def kill_broker(self) -> None:
        """Kill the broker with all it remembers, and wait for the next one."""
        pid = self.broker.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert until(lambda: self.broker.pid not in (None, pid) and self.broker.alive())

    # --- devices -------------------------------------------------------------------------------------------------

    def enrol(self, name: str | None = None, **variables: str) -> DeviceProcess:
        """Make a device with an identity, as `argosy-device join` would."""
        name = name or f"device-{new_id()[:8]}"
        folder = self.root / name / "state"
        identity, tls = x509.generate_identity_key(), x509.generate_key()
        device = x509.device_id(identity.public_key())
        certificate = x509.issue_client(
            self.pki.certificate, self.pki._key, tls.public_key(), device, SystemClock().wall()
        )
        host, port = self.broker.address
        private_folder(folder)
        x509.save_key(folder / identity_files.IDENTITY_KEY, identity)
        x509.save_key(folder / identity_files.TLS_KEY, tls)
        write_atomic(folder / identity_files.CERTIFICATE, x509.certificate_pem(certificate))
        write_atomic(folder / identity_files.CA, self.pki.ca.read_bytes())
        record = identity_files.Record(
            device=device,
            site=SITE,
            url="https://127.0.0.1:1",
            pin=x509.spki_pin(self.pki.certificate),
            token_id="0" * 8,
            brokers=[BrokerAddress(host=host, port=port)],
        )
        write_atomic(folder / identity_files.RECORD, record.model_dump_json().encode())
        enrolment = identity_files.Enrolment.load(folder)
        environment = {
            **os.environ,
            "TEST_FOLDER": str(self.root),
            "ARGOSY_DEVICE_RESEND_S": "0.4",
            "ARGOSY_DEVICE_HEARTBEAT_S": "0.5",
            "ARGOSY_DEVICE_DEATH_DELAY_S": "1",
            "ARGOSY_DEVICE_NAME": name,
            **variables,
        }
        return DeviceProcess(folder, enrolment, environment)

    @contextmanager
    def running(self, **variables: str) -> Iterator[DeviceProcess]:
        """A device whose daemon is connected; killed at the end if it still runs."""
        device = self.enrol(**variables)
        device.start()
        try:
            self.wait(Birth, device=device)
            yield device
        finally:
            if device.process is not None:
                device.end(signal.SIGKILL)
            sys.stderr.write(device.log)

    def names(self, device: str) -> topics.DeviceTopics:
        return topics.DeviceTopics(SITE, device)

    # --- work ----------------------------------------------------------------------------------------------------

    def bundle(self, source: str = APP) -> BlobRef:
        """Store an app with this client app."""
        folder = self.root / f"app-{new_id()}"
        (folder / "tiny").mkdir(parents=True)
        (folder / "tiny" / "__init__.py").write_text("")
        (folder / "tiny" / "client_app.py").write_text(textwrap.dedent(source))
        (folder / "tiny" / "server_app.py").write_text("from flwr.serverapp import ServerApp\napp = ServerApp()\n")
        (folder / "pyproject.toml").write_text(
            '[project]\nname = "tiny"\nversion = "1.0.0"\n[tool.flwr.app]\npublisher = "test"\n'
            '[tool.flwr.app.components]\nserverapp = "tiny.server_app:app"\nclientapp = "tiny.client_app:app"\n'
        )
        return self.store.put_bytes(pack(folder))

    def flower(self, do: str = "well", *, numbers: int = 10, run: int = 1) -> tuple[str, bytes, tuple[BlobRef, ...]]:
        """Make a train message with `numbers` floats; return its id, its bytes and its blobs."""
        import numpy as np  # noqa: PLC0415  (Flower takes seconds to import; not every test needs it)
        from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict  # noqa: PLC0415

        from argosy_common.flower.compat import become_task, set_message_id  # noqa: PLC0415
        from argosy_common.flower.messages import dump_message  # noqa: PLC0415

        become_task(run_id=run, node_id=1)
        arrays = ArrayRecord([np.arange(numbers, dtype=np.float32)])
        message = Message(RecordDict({"arrays": arrays, "config": ConfigRecord({"do": do})}), 2, "train", ttl=100.0)
        message_id = new_id()
        set_message_id(message, message_id)
        dumped = dump_message(message, self.store)
        return message_id, dumped.flower, dumped.blobs

    def instruction(
        self, app: BlobRef, do: str = "well", *, numbers: int = 10, run: int = 1, expires_in: float | None = 60.0
    ) -> Envelope:
        """Make an instruction, not yet sent."""
        message_id, flower, blobs = self.flower(do, numbers=numbers, run=run)
        body = Instruction(
            flower=flower,
            blobs=[BlobPart(digest=ref.digest, size=ref.size) for ref in blobs],
            app=BlobPart(digest=app.digest, size=app.size),
            client_app="tiny.client_app:app",
            node_id=2,
        )
        return Envelope(kind=body.kind, body=body.pack(), id=message_id, run=run, round=1, expires_in=expires_in)

    def send(self, device: DeviceProcess, envelope: Envelope) -> str:
        """Send an instruction (or anything else for the job topic); return its id."""
        assert self.link.publish(self.names(device.id).jobs, encode(envelope), qos=1)
        return envelope.id

    def send_raw(self, topic: str, payload: bytes) -> None:
        assert self.link.publish(topic, payload, qos=1)

    def cancel(self, device: DeviceProcess, run: int) -> None:
        self.send(device, Envelope(kind=Cancel.kind, body=Cancel().pack(), run=run))

    def post(self, device: str, body: Body, reply_to: str | None = None) -> bool:
        envelope = Envelope(kind=body.kind, body=body.pack(), reply_to=reply_to)
        return self.link.publish(self.names(device).control_down, encode(envelope), qos=1)

    def content(self, reply: Reply) -> Any:  # noqa: ANN401  (Flower's record values are a wide union)
        """Return the Flower content of a reply, once its blobs are here too."""
        from argosy_common.flower.messages import load_message  # noqa: PLC0415

        assert until(lambda: all(self.store.has(part.digest) for part in reply.blobs))
        return load_message(reply.flower, self.store).content

    # --- what is heard -------------------------------------------------------------------------------------------

    def all(self, kind: type[B], reply_to: str | None = None, *, device: DeviceProcess | None = None) -> list[B]:
        """Return the bodies of a kind heard so far, about one message or from one device."""
        with self._changed:
            heard = list(self.heard)
        return [
            each.body
            for each in heard
            if isinstance(each.body, kind)
            and reply_to in (None, each.envelope.reply_to)
            and (device is None or device.id == each.device)
        ]

    def raw(self, kind: type[Body], reply_to: str) -> list[bytes]:
        """Return the bytes of the messages of a kind about one message."""
        with self._changed:
            return [it.raw for it in self.heard if isinstance(it.body, kind) and it.envelope.reply_to == reply_to]

    def wait(
        self,
        kind: type[B],
        reply_to: str | None = None,
        *,
        device: DeviceProcess | None = None,
        count: int = 1,
        where: Callable[[B], bool] = lambda _body: True,
    ) -> B:
        """Wait for the `count`-th body of a kind and return it."""
        deadline = time.monotonic() + 2 * PATIENCE_S
        with self._changed:
            while True:
                found = [body for body in self.all(kind, reply_to, device=device) if where(body)]
                if len(found) >= count:
                    return found[count - 1]
                left = deadline - time.monotonic()
                assert left > 0, f"no {kind.kind} number {count} about {reply_to}: {self.kinds()}"
                self._changed.wait(min(left, 0.5))

    def kinds(self) -> list[str]:
        return [each.body.kind for each in self.heard]

    def _hear(self, delivery: Delivery) -> None:
        address = topics.parse(delivery.topic)
        assert address is not None
        if not delivery.payload:
            return
        envelope = decode(delivery.payload, peer=address.device)
        body = open_body(envelope, peer=address.device)
        if isinstance(body, Birth):
            self._online.add(address.device)
            self.exchange.peer_up(address.device)
        if isinstance(body, TRANSFER):
            self.exchange.handle(address.device, body)
        if isinstance(body, Reply) and self.give_receipts:
            self.post(address.device, Received(), envelope.reply_to)
        with self._changed:
            self.heard.append(Heard(address.device, envelope, body, delivery.payload))
            self._changed.notify_all()

    def _hear_chunk(self, delivery: Delivery) -> None:
        address = topics.parse(delivery.topic)
        assert address is not None
        self.exchange.handle_chunk(address.device, delivery.payload)

    def _each_online(self, do: Callable[[str], None]) -> None:
        for device in self._online:
            do(device)

    def _tick(self) -> None:
        while not self._stopping.wait(0.5):
            self.exchange.tick()
