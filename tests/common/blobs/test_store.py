"""The blob store on a real file system."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from argosy_common.blobs import BlobRef, BlobStore
from argosy_common.blobs.frames import Layout
from argosy_common.blobs.partial import Partial
from argosy_common.errors import BlobUnknown, DiskFull, StorageFailed


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def files(store: BlobStore) -> list[Path]:
    return [path for path in store.root.rglob("*") if path.is_file()]


def test_a_blob_is_named_by_its_content(store: BlobStore) -> None:
    ref = store.put_bytes(b"hello")
    assert ref == BlobRef(hashlib.sha256(b"hello").digest(), 5)
    assert store.has(ref.digest)
    assert store.ref(ref.digest) == ref
    assert store.path(ref.digest).read_bytes() == b"hello"
    assert stat.S_IMODE(store.path(ref.digest).stat().st_mode) == 0o600


def test_all_ways_in_give_one_file(store: BlobStore, tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(content)
    with store.writer() as writer:
        for start in range(0, len(content), 700_001):
            writer.write(memoryview(content)[start : start + 700_001])
        assert writer.size == len(content)
        first = writer.commit()
    assert first == store.put_bytes(bytearray(content)) == store.put_file(tmp_path / "file")
    assert files(store) == [store.path(first.digest)]


def test_a_blob_does_not_change_with_the_file_it_came_from(store: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"before")
    ref = store.put_file(tmp_path / "file")
    with (tmp_path / "file").open("r+b") as stream:
        stream.write(b"AFTER!")
    assert store.path(ref.digest).read_bytes() == b"before"


def test_a_writer_that_is_left_without_commit_leaves_nothing(store: BlobStore) -> None:
    with store.writer() as writer:
        writer.write(b"half")
    assert files(store) == []


def test_what_is_not_here_has_its_error(store: BlobStore, tmp_path: Path) -> None:
    for ask in (store.path, store.size, store.ref):
        with pytest.raises(BlobUnknown):
            ask(bytes(32))
    assert not store.has(bytes(32))
    assert not store.delete(bytes(32))
    with pytest.raises(StorageFailed):
        store.put_file(tmp_path / "absent")


def test_a_deleted_blob_stays_readable_for_who_has_it_open(store: BlobStore) -> None:
    ref = store.put_bytes(b"content")
    with store.path(ref.digest).open("rb") as stream:
        assert store.delete(ref.digest)
        assert stream.read() == b"content"
    assert not store.has(ref.digest)


def test_the_least_recently_used_unpinned_blobs_make_room(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, max_bytes=3000)
    refs = [store.put_bytes(bytes([number]) * 1000) for number in range(3)]
    for age, ref in zip((30, 20, 10), refs, strict=True):
        os.utime(store.path(ref.digest), (10**9 - age, 10**9 - age))
    store.pin(refs[0].digest)
    new = store.put_bytes(b"n" * 1000)
    assert [store.has(ref.digest) for ref in (*refs, new)] == [True, False, True, True]
    store.path(refs[2].digest)  # a use, so that the unpinned first is older
    store.unpin(refs[0].digest)
    store.put_bytes(b"m" * 1000)
    assert [store.has(ref.digest) for ref in (*refs, new)] == [False, False, True, True]
    assert store.total_bytes() == 3000


def test_a_blob_over_the_limit_is_kept_and_pins_count(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, max_bytes=10)
    ref = store.put_bytes(b"x" * 100)
    assert store.has(ref.digest)
    store.pin(ref.digest)
    store.pin(ref.digest)
    store.unpin(ref.digest)
    store.put_bytes(b"y" * 100)
    assert store.has(ref.digest)
    store.unpin(ref.digest)
    store.put_bytes(b"z" * 100)
    assert not store.has(ref.digest)


@pytest.fixture
def small_disk() -> Iterator[None]:
    """Files can have 64 kB at most: the file system answers as a full one does (EFBIG for ENOSPC)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("small_disk")
def test_a_full_disk_has_its_name_and_nothing_stays(store: BlobStore) -> None:
    with pytest.raises(DiskFull) as caught:
        store.put_bytes(bytes(200_000))
    assert caught.value.facts["needed"] == "200000"
    assert files(store) == []
    store.put_bytes(bytes(1000))


@pytest.mark.usefixtures("small_disk")
def test_a_fetch_onto_a_full_disk_has_its_name(store: BlobStore) -> None:
    partial = Partial(store, "peer", BlobRef(bytes(32), 100 * 1024), Layout(100 * 1024, 32 * 1024))
    partial.write(0, memoryview(bytes(32 * 1024)))
    with pytest.raises(DiskFull):
        partial.write(2, memoryview(bytes(32 * 1024)))
    partial.discard()
    assert files(store) == []


def test_a_folder_that_cannot_be_used_has_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageFailed):
        BlobStore(tmp_path / "file" / "blobs")


def test_several_processes_and_threads_store_the_same_blobs_at_once(store: BlobStore) -> None:
    program = (
        "import sys; from pathlib import Path; from argosy_common.blobs import BlobStore\n"
        "store = BlobStore(Path(sys.argv[1]))\n"
        "for n in range(30): store.put_bytes(bytes([n]) * 50_000)\n"
    )
    others = [subprocess.Popen([sys.executable, "-c", program, str(store.root)]) for _ in range(2)]
    threads = [threading.Thread(target=lambda: [store.put_bytes(bytes([n]) * 50_000) for n in range(30)])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [other.wait(30) for other in others] == [0, 0]
    assert len(files(store)) == 30
    for path in files(store):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name


def test_sweeping_takes_what_the_dead_left_and_nothing_else(store: BlobStore) -> None:
    (store.partials / "dead.writing").write_bytes(bytes(500))
    with store.writer() as writer:
        writer.write(b"alive")
        assert store.sweep() == 500
        ref = writer.commit()
    assert store.has(ref.digest)


def test_two_receivers_of_one_blob_from_one_peer_do_not_mix(store: BlobStore) -> None:
    ref, layout = BlobRef(bytes(32), 4096), Layout(4096, 1024)
    first = Partial(store, "peer", ref, layout)
    with pytest.raises(StorageFailed, match="another process"):
        Partial(store, "peer", ref, layout)
    other = Partial(store, "another peer", ref, layout)
    for partial in (first, other):
        partial.close()
        partial.close()


def test_a_partial_comes_back_with_what_was_saved(store: BlobStore) -> None:
    content = os.urandom(10_000)
    ref, layout = BlobRef(hashlib.sha256(content).digest(), 10_000), Layout(10_000, 1024)
    partial = Partial(store, "peer", ref, layout)
    have = partial.saved
    for index in (0, 1, 5, 9):
        partial.write(index, memoryview(content)[index * 1024 :][: layout.length(index)])
        have.add(index)
    partial.checkpoint(have.pack())
    partial.write(7, memoryview(content)[7 * 1024 : 8 * 1024])  # never saved
    partial.close()
    again = Partial(store, "peer", ref, Layout(10_000, 2048))  # with another chunk size
    assert [index for index in range(5) if index in again.saved] == [0]
    again.close()
    again = Partial(store, "peer", ref, layout)
    assert [index for index in range(10) if index in again.saved] == [0, 1, 5, 9]
    for index in (2, 3, 4, 6, 7, 8):
        again.write(index, memoryview(content)[index * 1024 : (index + 1) * 1024])
    assert again.matches()
    again.commit()
    assert store.path(ref.digest).read_bytes() == content
    assert files(store) == [store.path(ref.digest)]


@pytest.mark.parametrize("trailer", [b"", b"ACM1", b"ACM1" + bytes(12), b"ACM1" + b"\xff" * 60_000, b"garbage" * 100])
def test_a_strange_trailer_means_nothing_is_here(store: BlobStore, trailer: bytes) -> None:
    ref, layout = BlobRef(bytes(32), 5000), Layout(5000, 1024)
    first = Partial(store, "peer", ref, layout)
    first.close()
    first.path.write_bytes(bytes(5000) + trailer)
    again = Partial(store, "peer", ref, layout)
    assert again.saved.count == 0
    again.close()


def test_fetches_that_nobody_goes_on_with_count_as_blobs_and_go_by_their_age(tmp_path: Path) -> None:
    """A device on a slow line gives up one model after another half-way: that must not fill its disk."""
    store = BlobStore(tmp_path, max_bytes=310_000)
    old = store.put_bytes(b"o" * 100_000)
    os.utime(store.path(old.digest), (1, 1))
    given_up, alive = (Partial(store, peer, BlobRef(bytes(32), 100_000), Layout(100_000, 1024)) for peer in "ab")
    for age, partial in ((2, given_up), (3, alive)):
        for index in range(97):
            partial.write(index, memoryview(bytes(1024)))
        os.utime(partial.path, (age, age))
    given_up.close()
    new = store.put_bytes(b"n" * 100_000)
    assert [store.has(each.digest) for each in (old, new)] == [False, True]
    assert given_up.path.exists(), "the oldest goes first"
    store.put_bytes(b"m" * 100_000)
    assert (given_up.path.exists(), alive.path.exists(), store.has(new.digest)) == (False, True, True)


def test_what_other_processes_put_here_is_trimmed_on_request(tmp_path: Path) -> None:
    """The worker writes replies through a store of its own, which has no limit."""
    store, workers = BlobStore(tmp_path, max_bytes=2000), BlobStore(tmp_path)
    refs = [workers.put_bytes(bytes([number]) * 1000) for number in range(5)]
    for age, ref in enumerate(refs, 1):
        os.utime(store.path(ref.digest), (age, age))
    store.pin(refs[0].digest)
    store.trim()
    assert [store.has(ref.digest) for ref in refs] == [True, False, False, False, True]
