"""Runs as the supervisor sees them: real run processes, a real store, and a broker that is away."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from argosy_common.blobs import BlobRef, BlobStore
from argosy_common.bundle import pack
from argosy_common.clock import SystemClock
from argosy_common.errors import ServerAppFailed
from argosy_common.link import Link, LinkSettings
from argosy_common.straggler.conditions import UNKNOWN, Condition
from argosy_common.wire.bodies import Birth, Heartbeat
from argosy_server.ca import CertificateAuthority
from argosy_server.dispatcher import Dispatcher
from argosy_server.fleet_lists import FleetLists
from argosy_server.gateway import Gateway
from argosy_server.models.registry import ModelRegistry
from argosy_server.registry import Registry
from argosy_server.runs import supervisor as supervisors
from argosy_server.runs.supervisor import RunSupervisor
from argosy_server.settings import RunsTable
from argosy_server.store import ProgressRow, Store

CLOCK = SystemClock()

APP = """
import os, signal, time

def server(grid, context):
    way = context.run_config["way"]
    if way == "fork":
        child = os.fork()
        if child == 0:
            time.sleep(600)
        with open("child", "w") as stream:
            stream.write(str(child))
    elif way == "release":
        grid._grid._port.release([bytes.fromhex(context.run_config["digest"])])
    elif way == "checkpoint":
        grid._grid._port.event("central", round=1, metrics={})
        grid._grid._port.checkpoint((1, "evaluate"), (bytes.fromhex(context.run_config["digest"]), 1), None)
    elif way == "conditions":
        with open("conditions", "w") as stream:
            stream.write(repr(grid.conditions()))
    elif way == "hang":
        os.kill(os.getpid(), signal.SIGSTOP)

client = server
"""

MANIFEST = """
[project]
name = "ways"
version = "1"
[tool.flwr.app.components]
serverapp = "ways:server"
clientapp = "ways:client"
[tool.flwr.app.config]
way = ""
digest = ""
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path / 'argosy.db'}", CLOCK) as store:
        yield store


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def runs(store: Store, blobs: BlobStore, tmp_path: Path) -> Iterator[RunSupervisor]:
    link = Link(LinkSettings("127.0.0.1", 1, "coordinator", tls=None), clock=CLOCK, rng=random.Random(1))
    registry = Registry(clock=CLOCK, grace_s=1.0)
    dispatcher = Dispatcher(
        gateway=Gateway(link, store, clock=CLOCK, sink="c0"),
        store=store,
        blobs=blobs,
        registry=registry,
        clock=CLOCK,
        sink="c0",
        resend_s=6.0,
        grace_s=1.0,
        max_upload=2**30,
    )
    made = RunSupervisor(
        store=store,
        blobs=blobs,
        dispatcher=dispatcher,
        registry=registry,
        clock=CLOCK,
        folder=tmp_path / "runs",
        settings=RunsTable(),
        log_level="INFO",
        fleet_lists=FleetLists(tmp_path / "fleet"),
        models=ModelRegistry(store, blobs, CertificateAuthority.open(tmp_path / "ca", CLOCK), clock=CLOCK),
    )
    made.recover()
    yield made
    made.close()
    dispatcher.close()


@pytest.fixture
def bundle(blobs: BlobStore, tmp_path: Path) -> BlobRef:
    folder = tmp_path / "ways"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(MANIFEST)
    (folder / "ways.py").write_text(APP)
    return blobs.put_bytes(pack(folder))


def ended(store: Store, run: int) -> str:
    """Return how the run ended."""
    deadline = time.monotonic() + 25
    while not store.runs.get(run).over and time.monotonic() < deadline:
        time.sleep(0.05)
    return str(store.runs.get(run).status)


def lives(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]
    except FileNotFoundError:
        return False


def test_a_run_ends_although_its_app_left_a_child_behind_and_the_child_ends_with_it(
    runs: RunSupervisor, store: Store, bundle: BlobRef
) -> None:
    run = runs.start(bundle, None, {"way": "fork"}, {})
    assert ended(store, run) == "finished"
    child = int((runs.folder(run) / "child").read_text())
    deadline = time.monotonic() + 5
    while lives(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not lives(child)


def test_what_an_earlier_run_left_as_its_model_stays_when_a_later_run_is_done_with_the_same(
    store: Store, blobs: BlobStore, runs: RunSupervisor, bundle: BlobRef
) -> None:
    model = blobs.put_bytes(b"a model")
    earlier = store.runs.create(
        app_name="a", app_digest=bundle.hex, app_size=1, server_app="a:b", client_app="a:b", run_config={}, options={}
    )
    store.runs.update(earlier, status="running")
    store.runs.update(earlier, status="finished", final_model=model.hex)
    runs.recover()
    assert ended(store, runs.start(bundle, None, {"way": "release", "digest": model.hex}, {})) == "finished"
    assert ended(store, runs.start(bundle, None, {"way": "release", "digest": bundle.hex}, {})) == "finished"
    assert blobs.has(model.digest)
    assert blobs.has(bundle.digest)


def test_what_led_up_to_a_checkpoint_is_written_down_before_it_since_a_run_that_goes_on_from_it_tells_it_no_more(
    runs: RunSupervisor, store: Store, blobs: BlobStore, bundle: BlobRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    done = store.progress.done

    def seen(
        run: int, phase: tuple[int, str], record: tuple[bytes, int], arrays: tuple[bytes, int] | None
    ) -> ProgressRow:
        written.extend(event.name for event in store.events.after(run, 0, 100))
        return done(run, phase, record, arrays)

    monkeypatch.setattr(store.progress, "done", seen)
    run = runs.start(bundle, None, {"way": "checkpoint", "digest": blobs.put_bytes(b"r").digest.hex()}, {})
    assert ended(store, run) == "finished"
    assert written[-1] == "central"


def test_a_run_is_told_how_its_devices_are(runs: RunSupervisor, store: Store, bundle: BlobRef) -> None:
    birth = Birth(boot="11" * 16, session=1, name="pi", version="1", python="3.11", machine="aarch64")
    there = birth.model_copy(update={"site": "hall", "shard": "3"})
    runs._registry.born(f"{2**63 + 7:016x}", there, "lab")
    runs._registry.beat(f"{2**63 + 7:016x}", Heartbeat(battery=0.25, throttled=False))
    runs._registry.born(f"{9:016x}", birth, "lab")
    run = runs.start(bundle, None, {"way": "conditions"}, {})
    assert ended(store, run) == "finished"
    known = {2**63 + 7: Condition(battery=0.25, throttled=False, site="lab/hall", shard="3"), 9: UNKNOWN}
    assert (runs.folder(run) / "conditions").read_text() == repr(known)


def test_a_run_whose_process_hangs_with_full_ears_is_stopped(
    runs: RunSupervisor, store: Store, bundle: BlobRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisors, "STOP_GRACE_S", 0.5)
    run = runs.start(bundle, None, {"way": "hang"}, {})
    active = runs._active[run]
    deadline = time.monotonic() + 20
    while " T " not in Path(f"/proc/{active.process.pid}/stat").read_text() and time.monotonic() < deadline:
        time.sleep(0.05)

    def shout() -> None:
        while not active.stopping:
            try:
                active.channel.send({"op": "nodes", "ids": [0] * 10_000})
            except OSError:
                return

    threading.Thread(target=shout, daemon=True).start()
    time.sleep(0.3)  # the socket is full after a few of them
    threading.Thread(target=runs.stop, args=[run], daemon=True).start()
    assert ended(store, run) == "stopped"


def test_a_run_whose_process_cannot_be_started_has_failed(
    runs: RunSupervisor, store: Store, bundle: BlobRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", os.devnull)
    with pytest.raises(ServerAppFailed):
        runs.start(bundle, None, {}, {})
    assert ended(store, store.runs.list()[0].id) == "failed"
