"""An operator vouches for a real fleet: the coordinator never has the key, and the boards have pinned it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from argosy_client.identity import Enrolment
from argosy_common import x509
from argosy_common.secagg.fleet import follow, verify
from argosy_server.local_fleet import LocalDevice, LocalFleet

START = "import sys; sys.argv[0] = 'argosy'; from argosy_server.cli.main import main; main()"


def argosy(*words: str | Path) -> str:
    """Run an `argosy` command that must succeed; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", START, *map(str, words)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_fleet_whose_devices_an_operator_vouches_for(tmp_path: Path) -> None:
    key, public, signed = tmp_path / "operator.key", tmp_path / "operator.pub", tmp_path / "fleet.json"
    argosy("fleet", "keygen", key)
    with LocalFleet(tmp_path / "state", [LocalDevice("roof"), LocalDevice("cellar")], operator_key=public) as fleet:
        fleet.start_coordinator()
        for name in fleet.devices:
            fleet.join(name)
        boards = [Enrolment.load(fleet.device_folder(name)) for name in fleet.devices]
        assert [board.operator for board in boards] == [x509.load_public_key(public)] * 2

        draft = tmp_path / "draft.json"
        draft.write_text(argosy("fleet", "draft", "--socket", fleet.socket))
        argosy("fleet", "sign", draft, "--key", key, "--yes", "--output", signed)
        argosy("fleet", "install", signed, "--socket", fleet.socket)

        fleet.kill("coordinator")
        fleet.start_coordinator()
        shown = json.loads(argosy("fleet", "show", "--json", "--socket", fleet.socket))
        assert [(row["name"], row["listed"]) for row in shown["devices"]] == [("cellar", True), ("roof", True)]

        held = (fleet.folder / "coordinator" / "fleet" / "1.json").read_bytes()
        for board in boards:
            assert board.operator is not None
            found = verify(held, board.operator, where="of the coordinator")
            assert follow(None, found) == (1, found.digest)
            identity = x509.load_key(board.identity_key_path).public_key()
            assert found.lists(x509.fingerprint(identity))
