"""`argosy-device` as a person types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from argosy_client import identity
from argosy_common import __version__, x509
from tests.client.harness import Harness


def typed(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200", **variables}
    command = [sys.executable, "-m", "argosy_client.cli", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_it_explains_itself() -> None:
    done = typed("--help")
    assert done.returncode == 0
    for command in ("join", "run", "status", "check", "version"):
        assert command in done.stdout
    assert "--state-dir" in typed("run", "--help").stdout


def test_it_tells_its_version() -> None:
    assert typed("version").stdout == f"argosy-device {__version__}\n"


def test_a_board_that_has_not_joined_is_told_how(tmp_path: Path) -> None:
    for command in ("run", "status"):
        done = typed(command, "--state-dir", str(tmp_path))
        assert done.returncode == 48
        assert "argosy-device join" in done.stderr
        assert "Traceback" not in done.stderr
    assert json.loads(typed("status", "--json", "--state-dir", str(tmp_path)).stdout)["enrolled"] is False


def test_a_wrong_setting_is_named_with_its_source(tmp_path: Path) -> None:
    file = tmp_path / "device.toml"
    file.write_text("heartbeat_s = -1")
    done = typed("run", "--config", str(file))
    assert done.returncode == 10
    assert "heartbeat_s" in done.stderr
    assert str(file) in done.stderr
    assert typed("run", ARGOSY_DEVICE_CONFIG=str(file)).returncode == 10
    assert typed("run", ARGOSY_DEVICE_HEARTBET_S="1").returncode == 10


def test_a_state_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = typed("run", "--state-dir", str(tmp_path / "file"))
    assert done.returncode in (14, 48)
    assert "Traceback" not in done.stderr


def test_wrong_usage_is_not_an_error_of_ours() -> None:
    assert typed("run", "--colour", "blue").returncode == 2
    assert typed("fly").returncode == 2


def test_the_status_of_an_enrolled_board_that_does_not_run(harness: Harness) -> None:
    device = harness.enrol()
    done = typed("status", "--state-dir", str(device.folder))
    assert done.returncode == 0
    assert device.id in done.stdout
    assert "not running" in done.stdout
    found = json.loads(typed("status", "--json", "--state-dir", str(device.folder)).stdout)
    assert datetime.fromisoformat(found["certificate_ends_at"]) > datetime.now(UTC)
    assert (found["device"], found["pid"], found["instructions"]) == (device.id, None, {})


def test_the_status_tells_whose_fleet_lists_a_board_takes(harness: Harness) -> None:
    device = harness.enrol()
    words = ("status", "--state-dir", str(device.folder))
    assert "no key pinned: coordinator trusted at enrolment" in typed(*words).stdout
    assert json.loads(typed(*words, "--json").stdout)["operator"] is None
    operator = x509.generate_key().public_key()
    (device.folder / identity.OPERATOR_KEY).write_bytes(x509.public_pem(operator))
    assert f"key {x509.short_fingerprint(operator)}" in typed(*words).stdout
    assert json.loads(typed(*words, "--json").stdout)["operator"] == x509.fingerprint(operator).hex()


def test_a_join_again_with_another_operators_key_is_refused_until_it_is_forced(
    harness: Harness, tmp_path: Path
) -> None:
    device = harness.enrol()
    words = ["join", device.enrolment.url, "--token", f"{device.enrolment.token_id}.{'A' * 32}"]
    words += ["--pin", device.enrolment.pin, "--state-dir", str(device.folder), "--operator-key"]
    pinned, other = (tmp_path / "operator.pub", tmp_path / "other.pub")
    for path in (pinned, other):
        path.write_bytes(x509.public_pem(x509.generate_key().public_key()))
    short = x509.short_fingerprint(x509.load_public_key(pinned))
    assert f"the operator's key {short}" in typed(*words, str(pinned)).stdout
    refused = typed(*words, str(other))
    assert refused.returncode == 91
    assert short in refused.stderr
    assert "--force" in refused.stderr
    assert typed(*words, str(other), "--force").returncode == 0
    assert (device.folder / identity.OPERATOR_KEY).read_bytes() == other.read_bytes()


def test_an_operators_key_that_is_none_is_named_before_anything_is_sent(tmp_path: Path) -> None:
    secret = tmp_path / "operator.key"
    x509.save_key(secret, x509.generate_key())
    words = ("join", "https://127.0.0.1:1", "--token", "x", "--pin", "x", "--state-dir", str(tmp_path / "state"))
    for file, named in ((secret, "it holds a private key"), (tmp_path / "none.pub", "does not exist")):
        done = typed(*words, "--operator-key", str(file))
        assert done.returncode == 2
        assert named in done.stderr
    assert not (tmp_path / "state").exists()


def test_a_token_that_is_none_is_named(tmp_path: Path) -> None:
    pin = "sha256:" + "0" * 64
    done = typed("join", "https://127.0.0.1:1", "--token", "x", "--pin", pin, "--state-dir", str(tmp_path))
    assert done.returncode == 32
    assert "argosy token create" in done.stderr


def test_ctrl_c_while_it_still_imports_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Impatient:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'argosy_client.daemon':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Impatient())\n"
    )
    done = typed("run", "--state-dir", str(tmp_path), PYTHONPATH=str(tmp_path))
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
