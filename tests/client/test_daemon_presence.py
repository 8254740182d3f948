"""The daemon as its coordinator and its operator see it come and go."""

from __future__ import annotations

import json
import signal

from argosy_client.inventory import take_inventory
from argosy_common import __version__
from argosy_common.wire.bodies import (
    Birth,
    Death,
    ErrorPart,
    Heartbeat,
    Inventory,
    Rebirth,
    Refused,
    Reply,
)
from tests.client.harness import Harness
from tests.waiting import PATIENCE_S, until


def test_a_device_is_born_beats_and_dies_in_good_order(harness: Harness) -> None:
    with harness.running() as device:
        birth = harness.wait(Birth, device=device)
        assert (birth.session, birth.version, birth.pending) == (1, __version__, [])
        beat = harness.wait(Heartbeat, device=device)
        assert beat.doing == "idle"
        assert beat.memory_total
        assert beat.daemon_rss
        harness.post(device.id, Rebirth())
        assert harness.wait(Birth, device=device, count=2).boot == birth.boot
        assert device.end(signal.SIGTERM) == 0
        assert harness.wait(Death, device=device) == Death(boot=birth.boot, clean=True)


def test_a_board_tells_what_it_is_after_each_birth_and_goes_on_where_nobody_wants_to_know(harness: Harness) -> None:
    with harness.running() as device:
        told = harness.wait(Inventory, device=device)
        assert told.facts == take_inventory().facts()
        told_in = next(heard.envelope.id for heard in harness.heard if heard.body == told)
        old = ErrorPart(code="kind-unknown", message="There is no message of the kind 'inventory'.")
        harness.post(device.id, Refused(error=old), told_in)  # a coordinator of an older version
        harness.post(device.id, Rebirth())
        assert harness.wait(Inventory, device=device, count=2) == told
        assert harness.wait(Heartbeat, device=device, count=2).doing == "idle"


TELLS_WHERE_IT_IS = """
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    return Message(RecordDict({"told": ConfigRecord(dict(context.node_config))}), reply_to=message)
"""


def test_where_a_board_stands_and_what_it_costs_is_told_to_the_coordinator_and_to_apps(harness: Harness) -> None:
    told = {"ARGOSY_DEVICE_SITE": "hall", "ARGOSY_DEVICE_SHARD": "3", "ARGOSY_DEVICE_METERED": "true"}
    with harness.running(**told) as device:
        birth = harness.wait(Birth, device=device)
        assert (birth.site, birth.shard) == ("hall", "3")
        assert harness.wait(Heartbeat, device=device).metered is True
        harness.send(device, harness.instruction(harness.bundle(TELLS_WHERE_IT_IS)))
        reply = harness.wait(Reply, device=device)
        assert dict(harness.content(reply)["told"]) == {"site": "hall", "shard": "3"}


def test_a_killed_device_is_declared_dead_by_the_broker_and_comes_back_under_another_boot_id(harness: Harness) -> None:
    with harness.running() as device:
        birth = harness.wait(Birth, device=device)
        device.end(signal.SIGKILL)
        assert harness.wait(Death, device=device) == Death(boot=birth.boot, clean=False)
        device.start()
        again = harness.wait(Birth, device=device, count=2)
        assert again.boot != birth.boot
        assert again.session == 1


def test_a_second_daemon_on_the_same_state_is_turned_away(harness: Harness) -> None:
    with harness.running() as device:
        assert device.process is not None
        second = device.spawn()
        assert second.wait(PATIENCE_S) == 12
        assert f"process {device.process.pid}" in device.log
        assert device.process.poll() is None


def test_status_tells_what_an_operator_asks(harness: Harness) -> None:
    with harness.running() as device:
        assert device.process is not None
        assert until(lambda: device.status()["connected"])
        found = device.status()
        assert found["device"] == device.id
        assert found["pid"] == device.process.pid
        device.end(signal.SIGTERM)
        assert device.status()["pid"] is None


def test_status_tells_why_there_is_no_connection(harness: Harness) -> None:
    device = harness.enrol()
    record = json.loads((device.folder / "enrolment.json").read_text())
    record["brokers"] = [{"host": "127.0.0.1", "port": 9}]
    (device.folder / "enrolment.json").write_text(json.dumps(record))
    device.start()
    try:
        assert until(lambda: device.status()["why"] == "connection refused"), device.status()
        assert device.status()["broker"] == "127.0.0.1:9"
    finally:
        device.end(signal.SIGKILL)
