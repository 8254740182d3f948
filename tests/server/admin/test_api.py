"""The admin API over its real socket: answers, refusals, waits, and the socket's own life."""

from __future__ import annotations

import getpass
import os
import socket
import stat
import threading
from pathlib import Path

import httpx
import pytest

from argosy_common.clock import SystemClock
from argosy_common.errors import (
    AdminRequestInvalid,
    AlreadyRunning,
    BlobUnknown,
    CoordinatorUnreachable,
    DeviceNotFound,
    ProgrammingError,
    RunNotFound,
    StorageFailed,
    TooFewDevices,
)
from argosy_server.api.logs import LARGEST_PIECE, read_log
from argosy_server.api.server import AdminServer
from argosy_server.api.waiting import MOST_WAITERS, Waiting
from argosy_server.cli.client import AdminClient
from argosy_server.store import RunStatus
from tests.server.admin.coordinator_on_rows import RowsCoordinator


def test_a_token_is_made_audited_with_the_callers_name_and_listed_without_its_secret(api: AdminClient) -> None:
    made = api.post("/tokens", {"uses": 3, "ttl_s": 60, "tags": ["north"]})
    assert made["token"].startswith(made["id"] + ".")
    assert made["pin"].startswith("sha256:")
    listed = api.get("/tokens")["tokens"]
    assert [token["uses"] for token in listed] == [3]
    assert made["token"] not in str(listed)
    entry = api.get("/audit")["entries"][-1]
    assert (entry["actor"], entry["action"]) == (f"user:{getpass.getuser()}", "token.create")
    assert made["token"] not in str(entry)


def test_devices_are_found_by_name_id_and_beginning_of_the_id(api: AdminClient) -> None:
    shown = api.get("/devices/attic")
    assert shown["presence"]["doing"] == "training"
    assert api.get(f"/devices/{shown['device']}")["name"] == "attic"
    assert len(api.get("/devices")["devices"]) == 4
    with pytest.raises(DeviceNotFound):
        api.get("/devices/nobody")


def test_a_bundle_is_uploaded_and_a_run_of_it_started(api: AdminClient, coordinator: RowsCoordinator) -> None:
    sent = api.put("/bundles", b"a zip")
    run = api.post("/runs", {"bundle": sent["digest"], "size": sent["size"], "config": {"lr": "0.5"}})["run"]
    assert coordinator.store.runs.get(run).run_config == {"lr": "0.5"}
    assert [row["run"] for row in api.get("/runs")["runs"]] == [run]
    assert api.get("/audit")["entries"][-1]["action"] == "run.start"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "bundle"),
        ({"bundle": "zz", "size": 1}, "bundle"),
        ({"bundle": "0" * 64, "size": 0}, "size"),
        ({"bundle": "0" * 64, "size": 1, "rounds": 0}, "rounds"),
        ({"bundle": "0" * 64, "size": 1, "surprise": 1}, "surprise"),
        ({"bundle": "0" * 64, "size": 1, "config": {"": "x"}}, "config"),
    ],
)
def test_a_malformed_request_is_refused_by_the_name_of_its_field(
    api: AdminClient, body: dict[str, object], named: str
) -> None:
    with pytest.raises(AdminRequestInvalid, match=named):
        api.post("/runs", body)


def test_a_run_of_a_bundle_that_was_not_uploaded_is_refused(api: AdminClient) -> None:
    with pytest.raises(BlobUnknown):
        api.post("/runs", {"bundle": "0" * 64, "size": 1})


def test_an_empty_or_an_oversized_bundle_is_refused(api: AdminClient) -> None:
    for content in (b"", b"x" * (16 * 1024 * 1024 + 1)):
        with pytest.raises(AdminRequestInvalid):
            api.put("/bundles", content)


def test_a_named_error_keeps_its_facts_and_has_a_fitting_status(
    api: AdminClient, server: AdminServer, coordinator: RowsCoordinator
) -> None:
    coordinator.refuse_runs = True
    sent = api.put("/bundles", b"a zip")
    with pytest.raises(TooFewDevices) as caught:
        api.post("/runs", {"bundle": sent["digest"], "size": sent["size"]})
    assert caught.value.facts["online"] == "1"
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(server.path))) as http:
        assert http.get("http://x/v1/runs/99").status_code == 404
        assert http.get("http://x/v1/nothing").json()["code"] == "admin-request-invalid"
        assert http.post("http://x/v1/tokens", content=b"{").status_code == 422


def test_our_own_bug_is_answered_by_name_and_the_api_goes_on(api: AdminClient, coordinator: RowsCoordinator) -> None:
    coordinator.checks = None  # type: ignore[assignment]  # the bug
    with pytest.raises(ProgrammingError, match="TypeError"):
        api.get("/doctor")
    assert api.get("/health")["version"] == "0.1.0"


def test_events_come_in_pages_and_the_last_page_says_that_the_run_is_over(
    api: AdminClient, coordinator: RowsCoordinator
) -> None:
    run = coordinator.add_run()
    for number in range(5):
        coordinator.tell(run, "central", round=number, metrics={})
    first = api.get(f"/runs/{run}/events", limit=3)
    assert ([event["seq"] for event in first["events"]], first["over"]) == ([1, 2, 3], False)
    coordinator.finish(run)
    page = api.get(f"/runs/{run}/events", limit=3, after=3)
    assert (len(page["events"]), page["over"]) == (3, False)
    assert api.get(f"/runs/{run}/events", limit=3, after=6) == {"events": [], "over": True}


def test_a_long_poll_is_answered_as_soon_as_something_happens(api: AdminClient, coordinator: RowsCoordinator) -> None:
    run = coordinator.add_run()
    teller = threading.Timer(0.2, coordinator.tell, (run, "central"), {"round": 1, "metrics": {}})
    teller.start()
    answer = api.get(f"/runs/{run}/events", wait=25)
    teller.join()
    assert [event["name"] for event in answer["events"]] == ["central"]


def test_events_of_an_unknown_run_are_refused(api: AdminClient) -> None:
    for path in ("/runs/77", "/runs/77/events", "/runs/77/live", "/runs/77/logs"):
        with pytest.raises(RunNotFound):
            api.get(path)
    with pytest.raises(RunNotFound):
        api.post("/runs/77/stop")


def test_stopping_a_run_that_is_over_changes_nothing(api: AdminClient, coordinator: RowsCoordinator) -> None:
    run = coordinator.add_run(status=RunStatus.FINISHED)
    assert api.post(f"/runs/{run}/stop")["status"] == "finished"
    assert coordinator.store.runs.get(run).status is RunStatus.FINISHED


def test_stopping_the_server_ends_long_polls_and_removes_the_socket(coordinator: RowsCoordinator, folder: Path) -> None:
    server = AdminServer(coordinator, folder / "admin.sock", clock=SystemClock())
    server.start()
    run = coordinator.add_run()
    answers: list[object] = []

    def poll() -> None:
        with AdminClient(server.path) as client:
            try:
                answers.append(client.get(f"/runs/{run}/events", wait=25))
            except CoordinatorUnreachable as error:
                answers.append(error)

    poller = threading.Thread(target=poll)
    poller.start()
    threading.Event().wait(0.3)
    server.stop()
    poller.join(10)
    assert answers == [{"events": [], "over": False}]
    assert not server.path.exists()
    server.stop()


def test_the_socket_is_for_owner_and_group_only(server: AdminServer) -> None:
    assert stat.S_IMODE(server.path.stat().st_mode) == 0o660


def test_a_stale_socket_is_replaced(coordinator: RowsCoordinator, folder: Path) -> None:
    path = folder / "admin.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = AdminServer(coordinator, path, clock=SystemClock())
    server.start()
    with AdminClient(path) as client:
        assert client.get("/health")
    server.stop()


def test_a_living_socket_is_left_alone(server: AdminServer, coordinator: RowsCoordinator, api: AdminClient) -> None:
    second = AdminServer(coordinator, server.path, clock=SystemClock())
    with pytest.raises(AlreadyRunning, match=str(os.getpid())):
        second.start()
    second.stop()
    assert api.get("/health")


def test_a_file_in_the_sockets_place_is_never_removed(coordinator: RowsCoordinator, folder: Path) -> None:
    path = folder / "admin.sock"
    path.write_text("precious")
    with pytest.raises(StorageFailed, match="in its place"):
        AdminServer(coordinator, path, clock=SystemClock()).start()
    assert path.read_text() == "precious"


def test_a_log_is_read_in_pieces_that_split_no_character(tmp_path: Path) -> None:
    path = tmp_path / "log"
    text = "x" * (LARGEST_PIECE - 1) + "é" + "end\n"
    path.write_bytes(text.encode()[:-5])  # cut inside the é
    first = read_log(path, 0)
    assert first.text == "x" * (LARGEST_PIECE - 1)
    path.write_bytes(text.encode())
    second = read_log(path, first.offset)
    assert first.text + second.text == text
    assert second.at_end
    assert read_log(tmp_path / "none", 0).text == ""


def test_when_too_many_wait_a_further_one_is_answered_at_once() -> None:
    waiting = Waiting(SystemClock())
    release = threading.Event()
    sitting = threading.Semaphore(0)

    def sit(slice_s: float) -> bool:
        sitting.release()
        return release.wait(slice_s)

    threads = [threading.Thread(target=waiting.until, args=(sit, 20)) for _ in range(MOST_WAITERS)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert sitting.acquire(timeout=10)
    waiting.until(lambda _: pytest.fail("it must not wait"), 20)
    release.set()
    for thread in threads:
        thread.join(10)
