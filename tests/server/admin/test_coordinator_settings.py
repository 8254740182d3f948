"""The coordinator's settings and `argosy-coordinator check`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from argosy_common.errors import PortInUse, SettingsInvalid
from argosy_server.settings import CoordinatorSettings, local_hosts


def check(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `argosy-coordinator check`."""
    line = [sys.executable, "-m", "argosy_server.cli.coordinator", "check", *words]
    return subprocess.run(
        line, env={**os.environ, **variables}, capture_output=True, text=True, timeout=60, check=False
    )


def test_everything_lies_under_the_state_directory_unless_set(tmp_path: Path) -> None:
    settings = CoordinatorSettings.load(None, state_dir=tmp_path)
    assert settings.socket_path == tmp_path / "admin.sock"
    assert settings.database_url == f"sqlite:///{tmp_path / 'coordinator.db'}"
    assert settings.blobs_dir == tmp_path / "blobs"
    assert settings.runs.device_wait_s == 60


def test_under_systemd_the_socket_lies_in_the_runtime_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/argosy")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/argosy")
    settings = CoordinatorSettings.load(None)
    assert settings.socket_path == Path("/run/argosy/admin.sock")
    assert settings.state_dir == Path("/var/lib/argosy")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[broker]\nkind = "external"', "url"),
        ('[broker]\nurl = "mqtts://b:1"', "url"),
        ('[broker]\nkind = "external"\nurl = "mqtt://b:1"', "mqtts"),
        ('[enrolment]\nadvertise = "http://b:1"', "https"),
        ('[enrolment]\nadvertise = "https://b:1/argosy"', "https"),
        ("[runs]\ndevice_wait_s = 0", "device_wait_s"),
        ('log_level = "LOUD"', "log_level"),
        ('site = "a/b"', "site"),
        (f'socket = "/tmp/{"x" * 110}"', "shorter"),
    ],
)
def test_an_impossible_setting_is_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "coordinator.toml"
    file.write_text(text)
    with pytest.raises(SettingsInvalid) as caught:
        CoordinatorSettings.load(file, state_dir=tmp_path)
    assert named in caught.value.message


def test_an_external_broker_is_named_by_its_url(tmp_path: Path) -> None:
    file = tmp_path / "coordinator.toml"
    file.write_text('[broker]\nkind = "external"\nurl = "mqtts://broker.example"')
    assert CoordinatorSettings.load(file).broker.external_address == ("broker.example", 8883)


def test_the_machines_hosts_end_with_loopback() -> None:
    assert local_hosts()[-2:] == ["localhost", "127.0.0.1"]


def test_check_tells_the_settings_that_hold_and_starts_nothing(tmp_path: Path) -> None:
    ports = {"ARGOSY_COORDINATOR_BROKER__PORT": "0", "ARGOSY_COORDINATOR_ENROLMENT__PORT": "0"}
    done = check("--state-dir", str(tmp_path / "state"), "--json", **ports)
    told = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert all(one["ok"] for one in told["checks"])
    assert told["settings"]["runs"]["resend_s"] == 6
    assert list((tmp_path / "state").iterdir()) == [tmp_path / "state" / "blobs"]


def test_check_names_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = check(
            "--state-dir",
            str(tmp_path),
            ARGOSY_COORDINATOR_ENROLMENT__HOST="127.0.0.1",
            ARGOSY_COORDINATOR_ENROLMENT__PORT=str(taken.getsockname()[1]),
            ARGOSY_COORDINATOR_BROKER__PORT="0",
        )
    assert done.returncode == PortInUse.exit_code
    assert "enrolment.port" in done.stdout


def test_a_misspelt_variable_is_refused_with_the_errors_code() -> None:
    done = check(ARGOSY_COORDINATOR_BROKKER__PORT="1")
    assert done.returncode == SettingsInvalid.exit_code
    assert "ARGOSY_COORDINATOR_BROKKER__PORT" in done.stderr
