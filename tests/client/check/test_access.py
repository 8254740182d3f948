"""Brokers that let a board do too much, or nothing at all."""

from __future__ import annotations

import socket
from pathlib import Path

from argosy_client.check.access import try_access
from argosy_client.identity import Enrolment
from argosy_server.local_fleet import LocalDevice, LocalFleet


def test_a_broker_without_an_access_list_and_one_that_does_not_answer(tmp_path: Path) -> None:
    with LocalFleet(tmp_path, [LocalDevice("board")], settings={"broker.kind": "iotcore"}) as fleet:
        fleet.start_coordinator()
        fleet.join("board")
        enrolment = Enrolment.load(fleet.device_folder("board"))
        found = try_access(enrolment, *enrolment.brokers[0], 4.0)
        assert (found.refused, found.own, found.others) == ("", True, True)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            assert try_access(enrolment, "127.0.0.1", port, 0.5).refused
        assert try_access(enrolment, "127.0.0.1", port, 0.5).refused == "connection refused"
