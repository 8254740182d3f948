"""`argosy-coordinator ca`, as an operator types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from argosy_common.clock import SystemClock
from argosy_server.ca import CertificateAuthority


def ca(state: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "argosy_server.cli.coordinator", "ca", *words, "--state-dir", str(state)]
    wide = {**os.environ, "COLUMNS": "300"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=wide)


@pytest.fixture
def pin(tmp_path: Path) -> str:
    return CertificateAuthority.open(tmp_path / "ca", SystemClock()).pin


def test_the_root_is_taken_offline_and_renews_from_there(tmp_path: Path, pin: str) -> None:
    shown = ca(tmp_path, "show")
    assert pin in shown.stdout
    assert "ca.key" in shown.stdout
    stick = tmp_path.parent / "root.key"
    taken = ca(tmp_path, "take-root-offline", str(stick))
    assert taken.returncode == 0, taken.stderr
    assert "a copy of it" in taken.stderr
    assert json.loads(ca(tmp_path, "show", "--json").stdout)["root_is_here"] is False
    before = (tmp_path / "ca" / "intermediate.crt").read_bytes()
    renewed = ca(tmp_path, "renew", "--root-key", str(stick))
    assert renewed.returncode == 0, renewed.stderr
    assert (tmp_path / "ca" / "intermediate.crt").read_bytes() != before
    assert not (tmp_path / "ca" / "ca.key").exists()


def test_mistakes_are_told_with_the_remedy_and_change_nothing(tmp_path: Path, pin: str) -> None:
    nothing = ca(tmp_path / "elsewhere", "show")
    assert nothing.returncode == 69
    assert "--state-dir" in nothing.stderr
    inside = ca(tmp_path, "take-root-offline", str(tmp_path / "ca" / "root.key"))
    assert inside.returncode == 39
    assert (tmp_path / "ca" / "ca.key").exists()
    absent = ca(tmp_path, "renew", "--root-key", str(tmp_path / "no.key"))
    assert absent.returncode == 39
    assert "no.key" in absent.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_what_root_renews_belongs_to_the_coordinators_user(tmp_path: Path, pin: str) -> None:
    folder = tmp_path / "ca"
    for path in (folder, *folder.iterdir()):
        os.chown(path, 4711, 4712)
    assert ca(tmp_path, "renew", "--root-key", str(folder / "ca.key")).returncode == 0
    assert {(path.stat().st_uid, path.stat().st_gid) for path in folder.iterdir()} == {(4711, 4712)}
