"""The device daemon: puts its parts together, keeps their time, and ends in good order.

Threads: the link's (messages in), the job thread (`jobs.py`), that of models (`models/deployments.py`), the exchange's
own, the pulse (timers) and the main thread, which obeys signals and examines the others for the service manager
(`argosy_common/service.py`). This process never imports Flower, numpy or torch: they live in the worker.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from argosy_client.addresses import joined_at, link_settings
from argosy_client.downloads import HttpsWay
from argosy_client.gateway import COORDINATOR, Gateway
from argosy_client.identity import Enrolment
from argosy_client.inference.host import InferenceHost, Served
from argosy_client.instance import InstanceLock
from argosy_client.inventory import take_inventory
from argosy_client.jobs import Jobs
from argosy_client.journal import Journal
from argosy_client.models.arrival import Arrival
from argosy_client.models.deployments import Deployments
from argosy_client.models.hosted import HostedInference
from argosy_client.models.inference import Inference, NoInference
from argosy_client.models.store import ModelStore
from argosy_client.outbox import Outbox
from argosy_client.presence import Presence, Told
from argosy_client.renewal import Renewal
from argosy_client.run_files import RunFiles
from argosy_client.settings import DeviceSettings, load_settings, shown_name
from argosy_client.telemetry import Telemetry
from argosy_client.time_floor import TimeFloor
from argosy_client.upgrading.orders import Orders
from argosy_client.worker.host import WorkerHost, WorkerLimits
from argosy_client.yielding import Yielding
from argosy_common import logs
from argosy_common.blobs import BlobStore
from argosy_common.blobs.exchange import BlobExchange
from argosy_common.blobs.store import storage_errors
from argosy_common.clock import Clock, SystemClock
from argosy_common.errors import ArgosyError
from argosy_common.files import private_folder, write_atomic
from argosy_common.link import Link
from argosy_common.link.tls import client_context
from argosy_common.logs import get_logger
from argosy_common.notify import Notifier
from argosy_common.secure_home import SecureHome
from argosy_common.service import Condition, Progress, Signals, reread, serve
from argosy_common.wire.bodies import (
    TRANSFER_KINDS,
    Cancel,
    Deploy,
    Instruction,
    Rebirth,
    Received,
    Refused,
    Upgrade,
    Withdraw,
)
from argosy_common.wire.envelope import Envelope
from argosy_common.wire.topics import DeviceTopics

log = get_logger(__name__)

JOURNAL = "journal.db"
STATUS = "status.json"
CONNECTING = "connecting"
MODELS = "models"
INFERENCE_SOCKET = "inference.sock"
MEGABYTE = 1_000_000
JOB_STOP_S = 10.0
LINK_STOP_S = 5.0
YIELDING_STOP_S = 2.0
RENEWAL_STOP_S = 1.0
"""It only ever waits for the coordinator, and goes on where it was at the next start."""
HANGS_AFTER_S = 120.0
"""Seconds without progress after which a thread of ours counts as hanging: a worn SD card takes its time."""
NOTE_EVERY_S = 30.0
"""At least so long between two notes on why there is no connection: each of them wears out an SD card."""


class Device:
    """One device at work: `start`, then `stop`. The state directory must be locked by the caller."""

    def __init__(
        self,
        settings: DeviceSettings,
        enrolment: Enrolment,
        *,
        clock: Clock,
        rng: random.Random,
        inference: Inference | None = None,
    ) -> None:
        state_dir = settings.state_dir
        names = DeviceTopics(enrolment.site, enrolment.device)
        self._settings = settings
        self._clock = clock
        self._status_file = state_dir / STATUS
        self._time = TimeFloor(state_dir, enrolment.certificate_path, clock=clock)
        self._presence = Presence(
            names,
            name=shown_name(settings),
            telemetry=Telemetry(),
            death_delay_s=settings.death_delay_s,
            told=Told(settings.site, settings.shard, settings.metered, take_inventory().facts()),
        )
        self._journal = Journal(state_dir / JOURNAL, owner=_owner(enrolment))
        self._renewal = Renewal(
            enrolment, rng=rng, adopted=lambda renewed: self._time.renewed(renewed.certificate_path)
        )
        self._link = Link(
            replace(link_settings(enrolment), backoff_cap_s=settings.reconnect_s),
            clock=clock,
            rng=rng,
            will=self._presence.will,
            tls=self._renewal.files,
        )
        self._gateway = Gateway(self._link, names)
        store = BlobStore(private_folder(state_dir / "blobs"), max_bytes=settings.cache_mb * MEGABYTE)
        self._https = HttpsWay(
            lambda: client_context(self._renewal.enrolment.tls_files()),
            clock=clock,
            rng=rng,
            joined_at=joined_at(enrolment),
        )
        self._exchange = BlobExchange(
            store,
            clock=clock,
            sink="",
            post=self._gateway.post_control,
            post_chunk=self._gateway.post_chunk,
            may_serve=lambda _peer, digest: self._outbox.serves(digest),
            way=self._https,
        )
        self._outbox = Outbox(
            gateway=self._gateway,
            exchange=self._exchange,
            store=store,
            clock=clock,
            resend_s=settings.resend_s,
            delivered=self._delivered,
        )
        self._host = WorkerHost(
            store,
            private_folder(state_dir / "worker"),
            clock=clock,
            limits=WorkerLimits(memory_mb=settings.worker.memory_mb, time_s=settings.worker.time_s),
            secure=SecureHome(
                folder=state_dir / "secure",
                identity_key=enrolment.identity_key_path,
                operator_key=enrolment.operator_key_path,
                required=settings.secure == "required",
                least=settings.secure_least,
                ciphers=settings.secure_ciphers,
            ),
        )
        self._jobs = Jobs(
            journal=self._journal,
            gateway=self._gateway,
            exchange=self._exchange,
            store=store,
            files=RunFiles(state_dir, store),
            host=self._host,
            outbox=self._outbox,
            clock=clock,
            node_config=settings.app_config,
        )
        models = ModelStore(state_dir / MODELS)
        self._hosted = _hosted(settings, rng)
        self._models = Deployments(
            store=models,
            arrival=Arrival(store=models, blobs=store, exchange=self._exchange, root=enrolment.ca_path),
            tell=self._gateway.post,
            clock=clock,
            inference=inference or self._hosted or NoInference(),
            report_s=settings.inference.report_s,
        )
        self._upgrades = Orders(settings.upgrade, state_dir, tell=self._gateway.post)
        self._yielding = Yielding(
            paces=self._hosted.paces if self._hosted else lambda: None,
            training=lambda: self._jobs.doing == "running",
            give=self._host.give,
            clock=clock,
        )
        self._noted_why = ""
        self._noted_at = clock.monotonic()
        self._stopping = threading.Event()
        self._beating = Progress("the pulse", clock=clock)
        self._pulse = threading.Thread(target=self._keep_time, name="pulse", daemon=True)
        self._connect_handlers()

    def start(self) -> None:
        """Go on with what the journal holds, and connect."""
        log.info("device.started", device=self._presence.device, boot=self._presence.boot, name=self._presence.name)
        self._note_status(connected=False, why=CONNECTING)
        self._jobs.start()
        self._models.start()
        self._link.start()
        self._renewal.start(self._link)
        self._pulse.start()
        if self._hosted is not None:
            self._yielding.start()

    def condition(self) -> Condition:
        """Examine it. Neither a broker out of reach nor a job that takes long is wrong: no new start mends those.

        Raises:
            StorageFailed: the journal does not answer.
        """
        self._journal.probe()
        wrong = self._beating.trouble(HANGS_AFTER_S) or self._link.trouble(HANGS_AFTER_S) or self._jobs.trouble()
        link = "connected to" if self._link.connected else "cannot reach"
        return Condition(wrong, f"{link} the broker {self._link.address}; {self._jobs.doing}")

    def stop(self) -> None:
        """Interrupt the job, say goodbye, end all threads and the worker; bounded."""
        self._stopping.set()
        self._yielding.stop(YIELDING_STOP_S)
        self._jobs.stop(JOB_STOP_S)
        self._models.stop(JOB_STOP_S)
        if self._hosted is not None:
            self._hosted.stop()
        self._presence.gone(self._link)
        self._renewal.stop(RENEWAL_STOP_S)
        self._link.stop(LINK_STOP_S)
        self._pulse.join(LINK_STOP_S)
        self._exchange.close()
        self._https.close(LINK_STOP_S)
        self._host.close()
        self._journal.close()
        self._time.stop()
        self._status_file.unlink(missing_ok=True)
        log.info("device.stopped", device=self._presence.device)

    # --- messages ------------------------------------------------------------------------------------------------

    def _connect_handlers(self) -> None:
        self._gateway.handle(Instruction, self._jobs.accept)
        self._gateway.handle(Cancel, self._jobs.cancel)
        self._gateway.handle(Received, self._on_received)
        self._gateway.handle(Refused, self._on_refused)
        self._gateway.handle(Deploy, self._models.deploy)
        self._gateway.handle(Withdraw, self._models.withdraw)
        self._gateway.handle(Upgrade, self._upgrades.take)
        self._gateway.handle(Rebirth, lambda _envelope, _body: self._on_rebirth())
        for kind in TRANSFER_KINDS:
            self._gateway.handle(kind, lambda _envelope, body: self._exchange.handle(COORDINATOR, body))
        self._gateway.handle_chunks(lambda frame: self._exchange.handle_chunk(COORDINATOR, frame))
        self._link.on_up(self._on_up)
        self._link.on_down(self._on_down)

    def _on_received(self, envelope: Envelope, _body: Received) -> None:
        if envelope.reply_to is not None:
            self._outbox.received(envelope.reply_to)

    def _delivered(self, message: str, reply: bytes) -> None:
        try:
            self._journal.delivered(message, reply)
        except ArgosyError as error:
            # the receipt is lost, so the reply is sent again after the next start: harmless
            log.warning("device.receipt_not_journaled", message=message, code=error.code, why=error.message)

    def _on_refused(self, envelope: Envelope, body: Refused) -> None:
        log.warning("device.was_refused", message=envelope.reply_to, code=body.error.code, why=body.error.message)
        if envelope.reply_to is not None:
            self._outbox.refused(envelope.reply_to)

    # --- connection ----------------------------------------------------------------------------------------------

    def _on_up(self, _session_present: bool) -> None:
        self._renewal.connected()
        self._presence.connected()
        self._be_born()
        self._exchange.peer_up(COORDINATOR)
        self._outbox.link_up()
        self._models.link_up()
        self._upgrades.link_up()
        self._beat()
        self._note_status(connected=True)

    def _on_down(self, why: str) -> None:
        self._exchange.peer_down(COORDINATOR)
        self._note_status(connected=False, why=why)

    def _on_rebirth(self) -> None:
        """The coordinator does not know us: it is new, and may have missed what we sent."""
        self._be_born()
        self._outbox.link_up()

    def _be_born(self) -> None:
        try:
            pending = [entry.id for entry in self._journal.open()]
        except ArgosyError as error:
            log.error("device.journal_unreadable", code=error.code, why=error.message)
            pending = []  # what it holds is sent again and answered by name
        self._presence.born(self._link, pending)
        self._presence.describe(self._link)

    def _note_status(self, *, connected: bool, why: str = "") -> None:
        """Leave a note for `argosy-device status`."""
        status = {
            "connected": connected,
            "broker": self._link.address,
            "why": why,
            "since": self._clock.wall().isoformat(timespec="seconds"),
        }
        self._noted_why, self._noted_at = why, self._clock.monotonic()
        try:
            write_atomic(self._status_file, json.dumps(status).encode())
        except OSError as error:
            log.warning("device.status_not_written", why=error.strerror)

    def _note_failure(self) -> None:
        """Note why there is no connection, where that is news: the first time at once, then now and then."""
        error = self._link.last_error
        if error is None or self._link.connected:
            return
        why = error.facts.get("why", error.message)
        first = self._noted_why == CONNECTING
        if why != self._noted_why and (first or self._clock.monotonic() - self._noted_at >= NOTE_EVERY_S):
            self._note_status(connected=False, why=why)

    # --- time ----------------------------------------------------------------------------------------------------

    def _keep_time(self) -> None:
        step = min(1.0, self._settings.heartbeat_s, self._settings.resend_s)
        next_beat = self._clock.monotonic() + self._settings.heartbeat_s
        while not self._stopping.wait(step):
            self._beating.beat()
            self._guarded(self._exchange.tick)
            self._guarded(self._outbox.tick)
            self._guarded(self._jobs.tick)
            self._guarded(self._models.tick)
            self._guarded(self._upgrades.tick)
            self._guarded(self._note_failure)
            self._guarded(self._time.tick)
            if self._clock.monotonic() >= next_beat:
                next_beat = self._clock.monotonic() + self._settings.heartbeat_s
                self._guarded(self._beat)

    def _beat(self) -> None:
        self._presence.beat(self._link, doing=self._jobs.doing, worker_rss=self._host.rss, yielding=self._yielding.told)

    @staticmethod
    def _guarded(task: Callable[[], None]) -> None:
        try:
            task()
        except Exception as error:  # noqa: BLE001  (timers must go on; the failure is logged)
            log.error("device.timer_failed", exc=error)


def _owner(enrolment: Enrolment) -> str:
    """Name the coordinator that the journal belongs to, by the key of its certificate authority."""
    return f"{enrolment.site}/{enrolment.device}/{enrolment.pin}"


def _hosted(settings: DeviceSettings, rng: random.Random) -> HostedInference | None:
    """Return what serves models on this board; None where nothing is installed for that, or it is not wanted."""
    wanted = settings.inference
    if not wanted.enabled or find_spec("onnxruntime") is None:
        return None
    served = Served(
        models=settings.state_dir / MODELS,
        socket=wanted.socket or settings.state_dir / INFERENCE_SOCKET,
        http=wanted.http,
        threads=wanted.threads,
        queue=wanted.queue,
        budget_mb=wanted.budget_mb,
        log_level=settings.log_level,
        state_dir=settings.state_dir,
    )
    return HostedInference(InferenceHost(served, rng=rng), target_ms=wanted.target_ms)


def run(
    settings: DeviceSettings, inference: Inference | None = None, *, read: Callable[[], DeviceSettings] | None = None
) -> None:
    """Run until SIGTERM or SIGINT; `inference` runs the models, instead of what is installed.

    `read` reads the settings again, at each SIGHUP.

    Raises:
        NotEnrolled, AlreadyRunning, StorageFailed, DiskFull: the daemon cannot start.
    """
    enrolment = Enrolment.load(settings.state_dir)
    lock = InstanceLock(settings.state_dir)
    clock = SystemClock()
    notifier = Notifier.of_this_process(clock=clock)  # before any process of ours inherits its variables
    with Signals() as signals:
        with storage_errors(settings.state_dir):
            device = Device(settings, enrolment, clock=clock, rng=random.SystemRandom(), inference=inference)
        device.start()
        try:
            serve(
                signals,
                notifier,
                examine=device.condition,
                reload=lambda: reread(settings, read or (lambda: settings)),
            )
        finally:
            device.stop()
            lock.release()


def main(argv: list[str] | None = None) -> int:
    """Run the daemon (`argosy-device run` becomes this process); return the exit code."""
    parser = argparse.ArgumentParser(prog="argosy-device run")
    parser.add_argument("--config", type=Path, help="settings file (ARGOSY_DEVICE_CONFIG; /etc/argosy/device.toml)")
    parser.add_argument("--state-dir", type=Path, help="where this device keeps its keys and its work")
    given = parser.parse_args(argv)
    named = os.environ.get("ARGOSY_DEVICE_CONFIG")
    try:
        read = partial(load_settings, given.config or (Path(named) if named else None), state_dir=given.state_dir)
        settings = read()
        logs.configure(settings.log_level)
        run(settings, read=read)
    except ArgosyError as error:
        sys.stderr.write(f"{error.message}\n{error.remedy_text}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
