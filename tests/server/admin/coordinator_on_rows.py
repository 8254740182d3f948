"""A coordinator that is no more than rows in a real store, behind the real admin API on a real socket.

It stands in for `argosy_server.coordinator` here, so that the API and the command line can be tested without a fleet.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from argosy_common import x509
from argosy_common.blobs import BlobRef, BlobStore
from argosy_common.clock import SystemClock
from argosy_common.errors import TooFewDevices
from argosy_common.run_settings import StragglerSettings
from argosy_common.secure_ledger import Ledger
from argosy_common.wire.bodies import Body
from argosy_server.ca import CertificateAuthority
from argosy_server.fleet_lists import FleetLists
from argosy_server.models.registry import ModelRegistry
from argosy_server.models.rollouts import Rollouts
from argosy_server.models.upgrades import Upgrades
from argosy_server.store import DeviceRow, DeviceState, RunStatus, Store

SIGNER_KEY = x509.generate_key()
NAMES = ["attic", "bench", "cellar", "dock"]


def _signer() -> tuple[x509.PrivateKey, str]:
    """The key of an authority that no board of these tests checks."""
    return SIGNER_KEY, "a chain"


class RowsCoordinator:
    """`CoordinatorPort` over what a test writes into its store and attributes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store.open(f"sqlite:///{folder / 'coordinator.db'}", SystemClock())
        self.blobs = BlobStore(folder / "blobs")
        self.ledger = Ledger(folder / "runs" / "secure")
        self.fleet_lists = FleetLists(folder / "fleet", self.ledger)
        self.sent: list[tuple[str, Body]] = []
        authority = CertificateAuthority.open(folder / "ca", SystemClock())
        self.models = ModelRegistry(self.store, self.blobs, authority, clock=SystemClock())
        self.rollouts = Rollouts(
            self.store,
            clock=SystemClock(),
            post=self._post,
            online=lambda: [device for device, told in self.present.items() if told["online"]],
            signer=_signer,
            resend_s=5.0,
        )
        self.upgrades = Upgrades(
            self.store,
            clock=SystemClock(),
            post=self._post,
            online=lambda: [device for device, told in self.present.items() if told["online"]],
            resend_s=5.0,
        )
        self.present: dict[str, Mapping[str, object]] = {}
        self.rows: list[dict[str, object]] = []
        self.checks: list[dict[str, object]] = [{"name": "broker", "ok": True, "detail": "mosquitto", "remedy": ""}]
        self.refuse_runs = False
        self.out: list[str] = []

    def _post(self, device: str, body: Body) -> bool:
        self.sent.append((device, body))
        return True

    def add_device(self, name: str, number: int) -> str:
        """Enrol a device by writing its row."""
        device = f"{number:016x}"
        now = datetime.now(UTC)
        row = DeviceRow(
            device=device,
            name=name,
            site="default",
            tags=["north"],
            state=DeviceState.ENROLLED,
            identity_public=device.encode(),
            certificate_pem="",
            not_after=now + timedelta(days=7),
            inventory={"model": "Raspberry Pi 5"},
            enrolled_at=now,
            last_seen_at=now - timedelta(minutes=5),
            version="0.1.0",
            boot="0" * 32,
            machine="aarch64",
        )
        self.store.devices.add(row)
        return device

    def add_run(self, *, status: RunStatus = RunStatus.RUNNING, rounds: int = 3) -> int:
        """Add a run in the given state."""
        run = self._create(BlobRef(bytes.fromhex("ab" * 32), 4096), {"lr": 0.1}, {})
        if status is not RunStatus.PENDING:
            self.store.runs.update(run, status=RunStatus.RUNNING, rounds=rounds, strategy="FedAvg")
        if status not in {RunStatus.PENDING, RunStatus.RUNNING}:
            self.store.runs.update(run, status=status)
        return run

    def tell(self, run: int, name: str, **data: object) -> None:
        """Append an event."""
        self.store.events.append(run, name, data)

    def tell_round(self, run: int, number: int, devices: Sequence[str], *, failing: str | None = None) -> None:
        """Append the events of one whole round."""
        error = {"code": "worker-died", "message": "The worker died.", "remedy": "Look at its memory.", "facts": {}}
        for phase in ("train", "evaluate"):
            self.tell(run, "phase-started", round=number, phase=phase, devices=list(devices))
            for device in devices:
                failed = error if device == failing and phase == "train" else None
                seconds = {"seconds": 1.5, "fetch_s": 0.1, "run_s": 1.3, "upload_s": 0.1}
                traffic = {"bytes_up": 150_000, "bytes_down": 152_000, "peak_rss": 90_000_000}
                about = {"round": number, "phase": phase, "device": device, "error": failed}
                self.tell(run, "device-reply", **about, **seconds, **traffic)
            lost = 1 if failing and phase == "train" else 0
            self.tell(
                run,
                "phase-finished",
                round=number,
                phase=phase,
                seconds=1.6,
                sent=len(devices),
                replied=len(devices) - lost,
                failed=lost,
                metrics={"loss": 1.0 / number, "accuracy": 1 - 0.5 / number},
                bytes_up=150_000 * len(devices),
                bytes_down=152_000 * len(devices),
            )
        self.tell(run, "central", round=number, metrics={"accuracy": 1 - 0.4 / number})

    def finish(self, run: int, status: RunStatus = RunStatus.FINISHED, error: dict[str, Any] | None = None) -> None:
        """End a run: the event first, then the row."""
        model = "cd" * 32 if status is RunStatus.FINISHED else None
        self.tell(run, "run-finished", status=str(status), error=error, seconds=9.0, final_model=model)
        self.store.runs.update(run, status=status, error=error, final_model=model)

    def health(self) -> Mapping[str, object]:
        return {"version": "0.1.0", "site": "default"}

    def presence(self, device: str) -> Mapping[str, object]:
        return self.present.get(device, {"online": False, "doing": "", "heartbeat": {}, "since": None})

    def enrolment_endpoint(self) -> tuple[str, str]:
        return "https://coordinator:8444", "sha256:" + "0f" * 32

    def shut_out(self, device: str) -> Mapping[str, object]:
        self.out.append(device)
        return {"session_ended": True, "broker": "mosquitto"}

    def readmit(self, device: str) -> None:
        self.out = [each for each in self.out if each != device]

    def start_run(self, bundle: BlobRef, rounds: int | None, config: dict[str, str], layers: dict[str, Any]) -> int:
        options: dict[str, object] = {"rounds": rounds, "codec": layers["codec"]}
        if layers.get("secure"):
            options["secure"] = {"enabled": True, "fleet": None}
        straggler = StragglerSettings().overridden(layers.get("straggler") or {})
        if straggler.enabled:
            options["straggler"] = straggler.to_wire()
        if self.refuse_runs:
            raise TooFewDevices(wanted=3, online=1, waited=60, devices="attic")
        return self._create(bundle, dict(config), options)

    def _create(self, bundle: BlobRef, config: dict[str, Any], options: dict[str, object]) -> int:
        return self.store.runs.create(
            app_name="har",
            app_digest=bundle.hex,
            app_size=bundle.size,
            server_app="har.server:app",
            client_app="har.client:app",
            run_config=config,
            options=options,
        )

    def repeat_run(self, run: int) -> int:
        row = self.store.runs.get(run)
        return self._create(BlobRef(bytes.fromhex(row.app_digest), row.app_size), row.run_config, row.options)

    def stop_run(self, run: int) -> None:
        self.finish(run, RunStatus.STOPPED)

    def run_log_path(self, run: int) -> Path:
        return self.folder / f"run-{run}.log"

    def live(self, run: int) -> Sequence[Mapping[str, object]]:
        return [{"round": run, **row} for row in self.rows]

    def doctor(self) -> Sequence[Mapping[str, object]]:
        return self.checks

    def wait_event(self, run: int, after: int, timeout_s: float) -> bool:
        ends = time.monotonic() + timeout_s
        while not self.store.events.after(run, after, 1):
            if time.monotonic() >= ends:
                return False
            time.sleep(0.02)
        return True
