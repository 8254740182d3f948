"""The coordinator: puts its parts together and answers for them to the admin API (`api.port.CoordinatorPort`).

Parts and who talks to whom: Broker ← Link ← Gateway ← Dispatcher ← RunSupervisor; beside them the CA, the enrolment
service, the store and the blobs. `start` brings them up in that order and `stop` takes them down in the reverse.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgpack

from argosy_common import __version__
from argosy_common.artefact.signature import SIGNER
from argosy_common.blobs import BlobRef, BlobStore
from argosy_common.clock import Clock
from argosy_common.errors import BrokerUnreachable, StorageFailed
from argosy_common.files import private_folder
from argosy_common.link import Link, LinkSettings, Will
from argosy_common.logs import get_logger
from argosy_common.secure_ledger import Ledger
from argosy_common.service import Condition, Progress
from argosy_common.wire import topics
from argosy_common.wire.bodies import Inventory, ModelState, UpgradeState
from argosy_common.wire.envelope import Envelope, encode
from argosy_server import doctor
from argosy_server.api.port import Facts
from argosy_server.broker import Broker, open_broker
from argosy_server.ca import CertificateAuthority
from argosy_server.dispatcher import Dispatcher
from argosy_server.downloads import Downloads
from argosy_server.enrolment import EnrolmentServer
from argosy_server.fleet_lists import FleetLists
from argosy_server.floods import FloodGate, Floods
from argosy_server.gateway import Gateway
from argosy_server.inventories import Inventories
from argosy_server.models import drifting
from argosy_server.models.registry import ModelRegistry
from argosy_server.models.remote_host import RemoteHost
from argosy_server.models.rollouts import Rollouts
from argosy_server.models.upgrades import Upgrades
from argosy_server.offload import Offload
from argosy_server.registry import Registry
from argosy_server.revocation import end_session
from argosy_server.runs.supervisor import RunSupervisor
from argosy_server.settings import CoordinatorSettings, local_hosts
from argosy_server.store import DeviceState, Store

log = get_logger(__name__)

SINK = "c0"
"""The name of this coordinator's chunk topics; further workers would have names of their own."""

MAX_UPLOAD = 16 * 1024**3
TICK_S = 1.0
FIRST_CONNECTION_S = 30.0
EXPIRE_EVERY_S = 60.0
HANGS_AFTER_S = 60.0
"""Seconds without progress after which a thread of ours counts as hanging."""


class Coordinator:
    """One coordinator on one state directory. Implements `CoordinatorPort`."""

    def __init__(self, settings: CoordinatorSettings, *, clock: Clock, rng: random.Random) -> None:
        self.settings = settings
        self._clock = clock
        self._rng = rng
        state = private_folder(settings.state_dir)
        self.store = Store.open(settings.database_url, clock)
        self.blobs = BlobStore(settings.blobs_dir)
        self.fleet_lists = FleetLists(state / "fleet", Ledger(private_folder(state / "runs") / "secure"))
        self.ca = CertificateAuthority.open(state / "ca", clock)
        self._hosts = settings.broker.advertise or local_hosts()
        tls = self.ca.issue_server(self._hosts, "broker")
        refused = self.store.devices.shut_out()
        crl = self.ca.write_crl(refused.serials)
        self._broker: Broker = open_broker(settings.broker, tls, state / "broker", clock=clock, rng=rng, crl=crl)
        self._shutting = threading.Lock()
        self._floods = Floods(clock)
        self._gate = FloodGate(self._floods, self.store.audit, shut_out=self.shut_out, let_in=self._let_in)
        self._broker.shut_out(refused.devices)
        self._registry = Registry(clock=clock, grace_s=settings.runs.grace_s)
        self._stopping = threading.Event()
        self._ticking = Progress("the ticker", clock=clock)
        self._ticker = threading.Thread(target=self._tick_on, name="ticker", daemon=True)

    # --- life

    def start(self) -> None:
        """Bring everything up; return once the broker is connected and devices may come.

        Raises:
            PortInUse, BrokerFailedToStart, BrokerUnreachable, StorageFailed: what stands in the way.
        """
        self._broker.start()
        self._link = self._make_link()
        self._gateway = Gateway(self._link, self.store, clock=self._clock, sink=SINK, floods=self._floods)
        self._gateway.handle(Inventory, Inventories(self.store, clock=self._clock).take)
        self._dispatcher = Dispatcher(
            gateway=self._gateway,
            store=self.store,
            blobs=self.blobs,
            registry=self._registry,
            clock=self._clock,
            sink=SINK,
            resend_s=self.settings.runs.resend_s,
            grace_s=self.settings.runs.grace_s,
            max_upload=MAX_UPLOAD,
            urls=self._blob_urls,
        )
        self.models = ModelRegistry(self.store, self.blobs, self.ca, clock=self._clock)
        self.rollouts = Rollouts(
            self.store,
            clock=self._clock,
            post=self._gateway.post,
            online=self._registry.online,
            signer=lambda: self.ca.signer(SIGNER),
            resend_s=self.settings.runs.resend_s,
        )
        self._gateway.handle(ModelState, self.rollouts.take)
        self.upgrades = Upgrades(
            self.store,
            clock=self._clock,
            post=self._gateway.post,
            online=self._registry.online,
            resend_s=self.settings.runs.resend_s,
        )
        self._gateway.handle(UpgradeState, self.upgrades.take)
        self._dispatcher.serves_also(self.rollouts.may_serve)
        self.runs = RunSupervisor(
            store=self.store,
            blobs=self.blobs,
            dispatcher=self._dispatcher,
            registry=self._registry,
            clock=self._clock,
            folder=private_folder(self.settings.state_dir / "runs"),
            settings=self.settings.runs,
            log_level=self.settings.log_level,
            fleet_lists=self.fleet_lists,
            models=self.models,
        )
        self.runs.recover()
        self._drift = drifting.Watch(
            self.store,
            self.settings.drift,
            drifts=self.rollouts.drifts,
            repeat=self.runs.repeat,
            clock=self._clock,
        )
        self._enrolment = self._make_enrolment()
        self._link.on_up(self._link_is_up)
        self._link.on_down(self._link_is_down)
        self._link.start()
        if not self._link.wait_connected(FIRST_CONNECTION_S):
            raise self._link.last_error or BrokerUnreachable(address=self._address(), why="no answer")
        self._enrolment.start()
        self._ticking.beat()
        self._ticker.start()
        log.info("coordinator.started", version=__version__, broker=self._broker.kind, address=self._address())

    def stop(self) -> None:
        """Take everything down, in bounded time. May be called when `start` failed half-way."""
        self._stopping.set()
        for part in ("_enrolment", "runs", "_dispatcher", "_link", "_broker"):
            built = getattr(self, part, None)
            if built is None:
                continue
            try:
                built.close() if part in ("runs", "_dispatcher") else built.stop()
            except Exception as error:  # noqa: BLE001  (the other parts must be stopped all the same)
                log.error("coordinator.stop_failed", exc=error, part=part)
        self.store.close()
        log.info("coordinator.stopped")

    def condition(self) -> Condition:
        """Examine it. A broker that cannot be reached is not wrong in this sense: no new start of ours mends that.

        Raises:
            StorageFailed: the database does not answer.
        """
        self.store.probe()
        wrong = self._ticking.trouble(HANGS_AFTER_S) or self._link.trouble(HANGS_AFTER_S)
        if not wrong and not self._broker.kept():
            wrong = "the broker's keeper has ended"
        link = "connected to" if self._link.connected else "cannot reach"
        online, runs = len(self._registry.online()), len(self.runs.active())
        return Condition(wrong, f"{link} the broker {self._address()}; {online} devices online, {runs} runs")

    # --- CoordinatorPort

    def health(self) -> Facts:
        """See `CoordinatorPort.health`."""
        online = self._registry.online()
        return {
            "status": "ok" if self._link.connected else "broker-unreachable",
            "version": __version__,
            "pid": os.getpid(),
            "site": self.settings.site,
            "state_dir": str(self.settings.state_dir),
            "broker": {"kind": self._broker.kind, "address": self._address(), "connected": self._link.connected},
            "devices_online": len(online),
            "devices_total": len(self.store.devices.list()),
            "runs_active": self.runs.active(),
        }

    def presence(self, device: str) -> Facts:
        """See `CoordinatorPort.presence`."""
        view = self._registry.view(device)
        return {
            "online": view.online,
            "doing": view.doing,
            "heartbeat": view.heartbeat,
            "condition": view.condition,
            "since": view.since.isoformat() if view.since else None,
        }

    def enrolment_endpoint(self) -> tuple[str, str]:
        """See `CoordinatorPort.enrolment_endpoint`."""
        return self._enrolment.url, self.ca.pin

    def shut_out(self, device: str) -> Facts:
        """See `CoordinatorPort.shut_out`. The order of the steps is that of `argosy_server/revocation.py`."""
        self._dispatcher.shut_out(device)
        self._tell_broker()
        ended = self._end_session(device)
        log.warning("coordinator.shut_out", device=device, broker=self._broker.kind, session_ended=ended)
        return {"session_ended": ended, "broker": self._broker.kind}

    def readmit(self, device: str) -> None:
        """See `CoordinatorPort.readmit`."""
        self._tell_broker()
        self._dispatcher.readmit(device)

    def _end_session(self, device: str) -> bool:
        key, chain = self.ca.issue_for_take_over(device)
        where = self._broker.address
        return end_session(device, key, chain, self.ca.ca_path, where, clock=self._clock, rng=self._rng)

    def _let_in(self, device: str) -> None:
        """Listen again to a device that flooded us, unless an operator revoked it meanwhile."""
        self._tell_broker()
        if self._gateway.welcomes(device):
            self._dispatcher.readmit(device)
            self._end_session(device)  # it comes back with a birth

    def _tell_broker(self) -> None:
        """Bring the broker's lists up to what the database says."""
        with self._shutting:  # of two at once the later list must be the one that stays
            refused = self.store.devices.shut_out()
            crl = self.ca.write_crl(refused.serials)
            try:
                self._broker.shut_out({*refused.devices, *self._floods.all_quiet()})
            except OSError as error:
                raise StorageFailed(path=crl.parent, why=error.strerror or error) from error

    def start_run(self, bundle: BlobRef, rounds: int | None, config: dict[str, str], layers: dict[str, Any]) -> int:
        """See `CoordinatorPort.start_run`."""
        return self.runs.start(bundle, rounds, config, layers)

    def repeat_run(self, run: int) -> int:
        """See `CoordinatorPort.repeat_run`."""
        return self.runs.repeat(run)

    def stop_run(self, run: int) -> None:
        """See `CoordinatorPort.stop_run`."""
        self.runs.stop(run)

    def run_log_path(self, run: int) -> Path:
        """See `CoordinatorPort.run_log_path`."""
        return self.runs.log_path(run)

    def live(self, run: int) -> Sequence[Facts]:
        """See `CoordinatorPort.live`."""
        names = {row.device: row.name for row in self.store.devices.list()}
        return self.runs.live(run).rows(
            lambda device: names.get(device, device), lambda device: self._registry.view(device).doing
        )

    def doctor(self) -> Sequence[Facts]:
        """See `CoordinatorPort.doctor`."""
        state, now = self.settings.state_dir, self._clock.wall()
        online, total = len(self._registry.online()), len(self.store.devices.list())
        wanted, ca = self.settings.enrolment, self.ca
        life = timedelta(seconds=wanted.certificate_s)
        return doctor.examine(
            [
                lambda: doctor.broker(
                    self._broker.kind, self._address(), connected=self._link.connected, error=self._link.last_error
                ),
                lambda: doctor.access_control(self._broker.kind),
                lambda: doctor.https(self._enrolment.url, alive=self._enrolment.alive(), blobs=wanted.serve_blobs),
                lambda: doctor.disk(state, self.blobs.root),
                lambda: doctor.database(*self.store.fault()),
                lambda: doctor.state_is_private(state),
                lambda: doctor.keys_are_private(ca.folder),
                lambda: doctor.authority(ca.certificate, ca.issuer, root_is_here=ca.root_is_here, now=now),
                lambda: doctor.own_certificates(ca.own_ends(), now),
                lambda: doctor.clock_is_sane(now, self._known_moment()),
                lambda: doctor.devices(online, total),
                lambda: doctor.device_certificates(self._certificate_ends(), life, now),
                lambda: doctor.inference(enabled=self.settings.inference.enabled, trouble=self._remote.trouble()),
                lambda: doctor.copies([self.store.devices.get(each).name for each in self._dispatcher.twins.recent()]),
            ]
        )

    def _certificate_ends(self) -> dict[str, datetime]:
        rows = self.store.devices.list()
        return {row.name: row.not_after for row in rows if row.state is DeviceState.ENROLLED}

    def _known_moment(self) -> datetime:
        """Return the latest moment that is on record."""
        return max([self.ca.issuer.not_valid_before_utc, *(row.at for row in self.store.audit.tail(1))])

    def wait_event(self, run: int, after: int, timeout_s: float) -> bool:
        """See `CoordinatorPort.wait_event`."""
        return self.runs.wait_event(run, after, timeout_s)

    # --- parts

    def _address(self) -> str:
        host, port = self._broker.address
        return f"{host}:{port}"

    def _make_link(self) -> Link:
        host, port = self._broker.address
        settings = LinkSettings(
            host=host,
            port=port,
            client_id="coordinator",
            tls=self.ca.coordinator_tls(),
            receive_maximum=1000,
            # a coordinator that is away for long gives up its runs, so old replies are worth nothing
            session_expiry_s=3600,
        )
        return Link(settings, clock=self._clock, rng=self._rng, will=lambda: self._state_message(online=False))

    def _state_message(self, *, online: bool) -> Will:
        """The coordinator's retained STATE: devices can tell a quiet coordinator from an absent one."""
        body: bytes = msgpack.packb({"online": online, "version": __version__})
        envelope = encode(Envelope(kind="coordinator-state", body=body))
        return Will(topics.coordinator_state(self.settings.site), envelope, delay_s=0)

    def _make_enrolment(self) -> EnrolmentServer:
        wanted = self.settings.enrolment
        downloads = Downloads(self.blobs, self._may_download, clock=self._clock)
        return EnrolmentServer(
            self.store,
            self.ca,
            clock=self._clock,
            host=wanted.host,
            port=wanted.port,
            hosts=local_hosts(),
            brokers=self._brokers,
            advertise=wanted.advertise,
            downloads=downloads if wanted.serve_blobs else None,
            offload=self._make_offload(),
            approval_s=wanted.approval_s,
            grace_s=wanted.grace_s,
            life=timedelta(seconds=wanted.certificate_s),
        )

    def _make_offload(self) -> Offload:
        wanted = self.settings.inference
        level = self.settings.log_level
        self._remote = RemoteHost(threads=wanted.threads, log_level=level, clock=self._clock, rng=self._rng)
        return Offload(self._remote if wanted.enabled else None, self.models, self._may_ask, queue=wanted.queue)

    def _may_ask(self, device: str, serial: str) -> bool:
        return self._gateway.welcomes(device) and self.store.devices.holds(device, serial)

    def _may_download(self, device: str, serial: str, digest: bytes) -> bool:
        """Judge a download; whoever was let in again after a theft must not let the thief in with it."""
        return self._dispatcher.may_download(device, digest) and self.store.devices.holds(device, serial)

    def _blob_urls(self, ref: BlobRef) -> list[str]:
        """Return where devices may download a blob besides. Asked once devices are here, and so is the service."""
        return self._enrolment.blob_urls(ref)

    def _brokers(self) -> list[tuple[str, int]]:
        """Return where devices find the broker."""
        host, port = self._broker.address
        if self._broker.kind == "external":
            return [(host, port)]
        # the embedded broker has no access control and serves this machine only
        hosts = ["127.0.0.1"] if self._broker.kind == "iotcore" else self._hosts
        return [(each, port) for each in hosts]

    def _link_is_up(self, session_present: bool) -> None:
        log.info("coordinator.broker_connected", address=self._address(), session_present=session_present)
        state = self._state_message(online=True)
        self._link.publish(state.topic, state.payload, qos=1, retain=True)
        self._dispatcher.link_up()

    def _link_is_down(self, why: str) -> None:
        log.warning("coordinator.broker_lost", address=self._address(), why=why)
        self._dispatcher.link_down()

    def _keep_certificates(self) -> None:
        """Renew what the next connection to the broker shows, and lists of the future: the clock was set right."""
        self.ca.coordinator_tls()
        if not self.ca.list_holds():
            self._tell_broker()

    def _tick_on(self) -> None:
        """Once a second: presence, re-sends, deadlines, transfers, rollouts. A failure is logged, and it ticks on."""
        expire_at = 0.0
        while not self._stopping.wait(TICK_S):
            self._ticking.beat()
            try:
                self._registry.tick()
                self._dispatcher.tick()
                self.rollouts.tick()
                self.upgrades.tick()
                self._drift.tick()
                self._gate.tick()
                if self._clock.monotonic() >= expire_at:
                    expire_at = self._clock.monotonic() + EXPIRE_EVERY_S
                    self.store.devices.expire()
                    self._keep_certificates()
            except Exception as error:  # noqa: BLE001  (the clock of the daemon must not stop)
                log.error("coordinator.tick_failed", exc=error)
