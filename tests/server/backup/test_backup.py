"""What is in a backup, what a restore makes of it, and what it refuses with nothing written."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import sqlite3
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from argosy_common.clock import SystemClock
from argosy_common.errors import (
    BackupDamaged,
    BackupSealed,
    DatabaseNewer,
    DiskFull,
    NoAuthority,
    RestoreRefused,
    StorageFailed,
)
from argosy_server.backup import make_backup, restore_backup
from argosy_server.backup.archive import verify
from argosy_server.backup.restore import GAP
from argosy_server.settings import CoordinatorSettings
from argosy_server.store import Store
from tests.postgres import cluster
from tests.server.backup.coordinator_state import contents, make_state, settings_of
from tests.system.disks import SmallDisk

CLOCK = SystemClock()


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a state directory and a backup of it; tests get copies."""
    folder = tmp_path_factory.mktemp("master")
    make_backup(make_state(folder / "state"), folder / "backup.tar.gz", CLOCK)
    return folder


@pytest.fixture
def state(master: Path, tmp_path: Path) -> CoordinatorSettings:
    return settings_of(shutil.copytree(master / "state", tmp_path / "state"))


@pytest.fixture
def archive(master: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(master / "backup.tar.gz", tmp_path))


def rewritten(archive: Path, change: Callable[[tarfile.TarInfo, bytes], tuple[tarfile.TarInfo, bytes] | None]) -> None:
    """Replace an archive by one whose members were changed, or taken away."""
    target = io.BytesIO()
    with tarfile.open(archive) as there, tarfile.open(fileobj=target, mode="w:gz") as here:
        for member in there:
            stream = there.extractfile(member)
            assert stream is not None
            kept = change(member, stream.read())
            if kept is not None:
                kept[0].size = len(kept[1])
                here.addfile(kept[0], io.BytesIO(kept[1]))
    archive.write_bytes(target.getvalue())


@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
def test_a_restored_folder_has_everything_and_is_private(
    state: CoordinatorSettings, tmp_path: Path, passphrase: bytes | None
) -> None:
    file, into = tmp_path / "b", tmp_path / "new"
    make_backup(state, file, CLOCK, passphrase)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "state"]
    manifest = restore_backup(file, into, CLOCK, passphrase)
    before, after = contents(state.state_dir), contents(into)
    assert manifest.missing == manifest.skipped == []
    assert set(before) - set(after) == {"broker/mosquitto.conf", "coordinator.lock"}
    assert set(after) - set(before) == {"coordinator.toml"}
    assert {name for name in after if name in before and after[name] != before[name]} == {"coordinator.db"}
    for path in (into, *into.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    again = CoordinatorSettings.load(into / "coordinator.toml", state_dir=into)
    assert (again.site, again.enrolment.port, again.state_dir) == ("north", 9444, into)
    with Store.open(again.database_url, CLOCK) as store, Store.open(state.database_url, CLOCK) as old:
        assert store.runs.list() == old.runs.list()
        assert store.events.after(1) == old.events.after(1)
        assert store.tokens.list() == old.tokens.list()
        assert store.audit.tail()[-1].action == "coordinator.restored"


def test_numbers_that_were_given_away_after_the_backup_are_not_given_away_again(archive: Path, tmp_path: Path) -> None:
    restore_backup(archive, tmp_path / "new", CLOCK)
    with sqlite3.connect(tmp_path / "new" / "coordinator.db") as database:
        numbers = dict(database.execute("SELECT name, seq FROM sqlite_sequence"))
    assert numbers["runs"] == 1 + GAP
    assert numbers["rollouts"] == GAP


def test_it_is_of_one_moment_while_others_write(state: CoordinatorSettings, tmp_path: Path) -> None:
    with Store.open(state.database_url, CLOCK) as store:
        store.events.append(1, "in the log only", {})  # in the WAL, not in the database's file
        make_backup(state, tmp_path / "b", CLOCK)
        store.events.append(1, "after", {})
    restore_backup(tmp_path / "b", tmp_path / "new", CLOCK)
    with Store.open(f"sqlite:///{tmp_path / 'new' / 'coordinator.db'}", CLOCK) as store:
        assert [event.name for event in store.events.after(1)] == ["round", "in the log only"]


def test_from_postgresql_and_to_it(tmp_path: Path) -> None:
    with cluster() as postgres:
        state = make_state(tmp_path / "state", database=postgres.url)
        make_backup(state, tmp_path / "b", CLOCK)
        with Store.open(postgres.url, CLOCK) as store:
            before = store.runs.list(), store.events.after(1), store.tokens.list()
        with pytest.raises(RestoreRefused, match="it holds"):
            restore_backup(tmp_path / "b", tmp_path / "new", CLOCK, database=postgres.url)
        assert not (tmp_path / "new").exists()
        postgres.empty()
        restore_backup(tmp_path / "b", tmp_path / "new", CLOCK, database=postgres.url)
        assert not (tmp_path / "new" / "coordinator.db").exists()
        again = CoordinatorSettings.load(tmp_path / "new" / "coordinator.toml", state_dir=tmp_path / "new")
        assert again.database_url == postgres.url
        with Store.open(again.database_url, CLOCK) as store:
            assert (store.runs.list(), store.events.after(1), store.tokens.list()) == before
            assert store.audit.tail()[-1].action == "coordinator.restored"
            fields = {"app_digest": "00" * 32, "app_size": 1, "server_app": "a:b", "client_app": "a:c"}
            assert store.runs.create(app_name="x", **fields, run_config={}, options={}) == 2 + GAP  # type: ignore[arg-type]


def test_what_is_missing_or_damaged_is_told_and_the_rest_is_kept(state: CoordinatorSettings, tmp_path: Path) -> None:
    with Store.open(state.database_url, CLOCK) as store:
        run = store.runs.get(1)
    assert run.final_model is not None
    blobs = state.blobs_dir / "sha256"
    (blobs / run.app_digest).unlink()
    (blobs / run.final_model).write_bytes(b"not what it was")
    (state.state_dir / "runs" / "1" / "link").symlink_to("/etc/passwd")
    manifest = make_backup(state, tmp_path / "b", CLOCK)
    assert manifest.missing == sorted([run.app_digest, run.final_model])
    assert manifest.skipped == ["runs/1/link"]
    restore_backup(tmp_path / "b", tmp_path / "new", CLOCK)
    assert list((tmp_path / "new" / "runs" / "1").iterdir()) == [tmp_path / "new" / "runs" / "1" / "run.log"]
    assert not list((tmp_path / "new").rglob(run.final_model))


def test_a_damaged_database_is_not_backed_up(state: CoordinatorSettings, tmp_path: Path) -> None:
    with (state.state_dir / "coordinator.db").open("r+b") as stream:
        stream.seek(4096 * 3)
        stream.write(b"\xff" * 4096 * 8)
    with pytest.raises(StorageFailed, match=r"damaged|malformed"):
        make_backup(state, tmp_path / "b", CLOCK)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state"]


def test_a_backup_replaces_nothing_and_needs_a_coordinator(state: CoordinatorSettings, tmp_path: Path) -> None:
    (tmp_path / "b").write_text("mine")
    with pytest.raises(StorageFailed, match="there already"):
        make_backup(state, tmp_path / "b", CLOCK)
    assert (tmp_path / "b").read_text() == "mine"
    shutil.rmtree(state.state_dir)
    with pytest.raises(NoAuthority):
        make_backup(state, tmp_path / "c", CLOCK)
    assert not state.state_dir.exists()


@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
def test_a_full_disk_is_named_and_leaves_nothing(
    state: CoordinatorSettings, tmp_path: Path, passphrase: bytes | None
) -> None:
    (state.state_dir / "runs" / "1" / "noise").write_bytes(b"".join(i.to_bytes(4, "big") for i in range(10**6)))
    disk = SmallDisk.or_skip(tmp_path / "disk")
    try:
        with disk.room(1_000_000):
            with pytest.raises(DiskFull, match="disk"):
                make_backup(state, disk.folder / "b", CLOCK, passphrase)
            assert [path.name for path in disk.folder.iterdir()] == ["ballast"]
        make_backup(state, tmp_path / "b", CLOCK, passphrase)
        with disk.room(1_000_000), pytest.raises(DiskFull):
            restore_backup(tmp_path / "b", disk.folder / "new", CLOCK, passphrase)
        assert not list(disk.folder.iterdir())
    finally:
        disk.unmount()


# --- what is refused, and leaves nothing


def test_a_folder_that_is_not_empty_is_refused_and_an_empty_one_taken(archive: Path, tmp_path: Path) -> None:
    into = tmp_path / "new"
    into.mkdir()
    (into / "mine").write_text("x")
    with pytest.raises(RestoreRefused, match="not an empty folder"):
        restore_backup(archive, into, CLOCK)
    assert contents(into) == {"mine": b"x"}
    with pytest.raises(RestoreRefused):
        restore_backup(archive, into / "mine", CLOCK)
    (into / "mine").unlink()
    restore_backup(archive, into, CLOCK)
    assert (into / "coordinator.db").exists()


def refuses(archive: Path, tmp_path: Path, match: str = "cannot be used") -> None:
    with pytest.raises(BackupDamaged, match=match):
        restore_backup(archive, tmp_path / "new", CLOCK)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_backup_that_was_cut_short_is_refused(archive: Path, tmp_path: Path, share: float) -> None:
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(share * len(whole))])
    refuses(archive, tmp_path)


def test_one_changed_byte_anywhere_is_refused_or_changes_nothing(archive: Path) -> None:
    whole, manifest, refused = archive.read_bytes(), verify(archive, None), 0
    for position in range(20, len(whole) - 20, len(whole) // 50):
        archive.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            assert verify(archive, None) == manifest, "another way to pack the same"
        except BackupDamaged:
            refused += 1
    assert refused > 40


def test_what_is_no_backup_is_refused(tmp_path: Path) -> None:
    for number, data in enumerate((b"", b"x" * 5000, b"\x1f\x8b" + b"x" * 500)):
        (tmp_path / str(number)).write_bytes(data)
        refuses(tmp_path / str(number), tmp_path)
    with pytest.raises(StorageFailed, match="nowhere"):
        restore_backup(tmp_path / "nowhere", tmp_path / "new", CLOCK)


def test_a_file_that_is_not_what_the_manifest_says_is_named(archive: Path, tmp_path: Path) -> None:
    rewritten(archive, lambda member, data: (member, data + b"!" if member.name == "runs/1/run.log" else data))
    refuses(archive, tmp_path, r"runs/1/run\.log")


def test_a_file_that_is_missing_is_named(archive: Path, tmp_path: Path) -> None:
    rewritten(archive, lambda member, data: None if member.name == "ca/ca.key" else (member, data))
    refuses(archive, tmp_path, r"ca/ca\.key")


@pytest.mark.parametrize(
    "name",
    ["../escaped", "/escaped", "ca/../../escaped", "blobs/./x", "etc/passwd", "ca", ".", "runs//x", ""],
)
def test_nothing_leads_out_of_the_folder(archive: Path, tmp_path: Path, name: str) -> None:
    def renamed(member: tarfile.TarInfo, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
        if member.name == "manifest.json":
            said = json.loads(data)
            said["files"][name] = said["files"].pop("runs/1/run.log")
            return member, json.dumps(said).encode()
        if member.name == "runs/1/run.log":
            member.name = name
        return member, data

    rewritten(archive, renamed)
    refuses(archive, tmp_path, "nothing that belongs")
    assert not list(tmp_path.glob("**/escaped"))
    assert not Path("/escaped").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
def test_only_files_are_taken(archive: Path, tmp_path: Path, kind: bytes) -> None:
    def changed(member: tarfile.TarInfo, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
        if member.name == "runs/1/run.log":
            member.type, member.linkname, data = kind, "/etc/passwd", b""
        return member, data

    rewritten(archive, changed)
    refuses(archive, tmp_path, "nothing that belongs")


def test_the_same_name_twice_is_refused(archive: Path, tmp_path: Path) -> None:
    def doubled(member: tarfile.TarInfo, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
        if member.name == "ca/ca.crt":
            member.name = "ca/ca.key"
        return member, data

    rewritten(archive, doubled)
    refuses(archive, tmp_path, "nothing that belongs")


@pytest.mark.parametrize("change", [{"format": 2}, {"files": {"x": {}}}, {"surprise": 1}])
def test_a_manifest_that_this_version_does_not_know_is_refused(
    archive: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    def changed(member: tarfile.TarInfo, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
        return member, json.dumps({**json.loads(data), **change}).encode() if member.name == "manifest.json" else data

    rewritten(archive, changed)
    refuses(archive, tmp_path, "manifest cannot be read")


def test_a_backup_of_a_newer_version_is_refused(archive: Path, tmp_path: Path) -> None:
    newer = tmp_path / "newer.db"
    with tarfile.open(archive) as tar:
        stream = tar.extractfile("coordinator.db")
        assert stream is not None
        newer.write_bytes(stream.read())
    with sqlite3.connect(newer) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    data = newer.read_bytes()

    def replaced(member: tarfile.TarInfo, before: bytes) -> tuple[tarfile.TarInfo, bytes]:
        if member.name == "manifest.json":
            said = json.loads(before)
            said["files"]["coordinator.db"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            return member, json.dumps(said).encode()
        return member, data if member.name == "coordinator.db" else before

    rewritten(archive, replaced)
    with pytest.raises(DatabaseNewer, match="9999"):
        restore_backup(archive, tmp_path / "new", CLOCK)
    assert not (tmp_path / "new").exists()


def test_a_passphrase_is_asked_for_and_only_the_right_one_opens(state: CoordinatorSettings, tmp_path: Path) -> None:
    make_backup(state, tmp_path / "sealed", CLOCK, b"correct horse")
    make_backup(state, tmp_path / "plain", CLOCK)
    for name, passphrase, why in (
        ("sealed", None, "it needs the passphrase"),
        ("sealed", b"battery staple", "another one"),
        ("plain", b"correct horse", "without a passphrase"),
    ):
        with pytest.raises(BackupSealed, match=why):
            restore_backup(tmp_path / name, tmp_path / "new", CLOCK, passphrase)
    assert not (tmp_path / "new").exists()
    key = (state.state_dir / "ca" / "ca.key").read_bytes()
    assert key not in (tmp_path / "sealed").read_bytes()
