from __future__ import annotations

import json
import threading
from dataclasses import replace

import pytest

from argosy_common.errors import ModelNotFound
from argosy_server.store import Store
from argosy_server.store.models import SignedManifest


def _made(version: int, parent: int | None) -> SignedManifest:
    text = f"{version} after {parent}"
    return SignedManifest(text.encode(), {"value": text}, f"{version:064x}", f"{version + 256:064x}", None, None)


def test_versions_of_a_name_count_upwards_and_each_knows_the_one_before(store: Store) -> None:
    for name in ("har", "har", "digits", "har"):
        store.models.add(name, _made, actor="me")
    assert [(row.reference, row.manifest) for row in store.models.list()] == [
        ("digits:1", b"1 after None"),
        ("har:3", b"3 after 2"),
        ("har:2", b"2 after 1"),
        ("har:1", b"1 after None"),
    ]
    assert [(row.action, row.subject) for row in store.audit.tail()][-1] == ("model.add", "har:3")


def test_a_version_may_come_from_another_than_the_one_before(store: Store) -> None:
    for _ in range(2):
        store.models.add("har", _made, actor="me")
    assert store.models.add("har", _made, parent=1, actor="me").manifest == b"3 after 1"
    with pytest.raises(ModelNotFound, match="har:9"):
        store.models.add("har", _made, parent=9, actor="me")
    assert store.models.get("har").version == 3


def test_a_version_that_cannot_be_made_leaves_no_trace(store: Store) -> None:
    def fail(_version: int, _parent: int | None) -> SignedManifest:
        raise ValueError("no key")

    with pytest.raises(ValueError, match="no key"):
        store.models.add("har", fail, actor="me")
    assert store.models.list() == []
    assert store.audit.tail() == []
    assert store.models.add("har", _made, actor="me").version == 1


def test_a_version_is_found_by_its_number_and_the_newest_by_its_name(store: Store) -> None:
    for _ in range(12):
        store.models.add("har", _made, actor="me")
    assert [store.models.get(key).version for key in ("har:2", "har:10", "har", "har:", "har:latest")] == [
        *(2, 10),
        *(12, 12, 12),
    ]
    for key in ("", ":", "ha", "har:0", "har:13", "har:-1", "har:²", "har:x", "\0:1", "\ud800", "har:" + "9" * 4000):
        with pytest.raises(ModelNotFound):
            store.models.get(key)


def test_one_version_of_a_name_is_promoted(store: Store) -> None:
    for name in ("har", "har", "digits"):
        store.models.add(name, _made, actor="me")
    assert store.models.promoted("har") is None
    store.models.promote("har:1", "me")
    store.models.promote("digits", "me")
    first = store.models.promote("har", "me")
    assert store.models.promote("har:2", "me") == first
    assert {row.reference for row in store.models.list() if row.promoted_at} == {"har:2", "digits:1"}
    assert store.models.promoted("har") == first
    promoted = [row.subject for row in store.audit.tail() if row.action == "model.promote"]
    assert promoted == ["har:1", "digits:1", "har:2"]


def test_the_digests_in_use_are_those_of_every_version(store: Store) -> None:
    for forms in ({}, {"litert": {"digest": "ab" * 32, "size": 1}}):
        manifest = json.dumps({"forms": forms} if forms else {}).encode()
        store.models.add("har", lambda *given, it=manifest: replace(_made(*given), manifest=it), actor="me")
    assert store.models.digests() == {*(f"{number:064x}" for number in (1, 2, 257, 258)), "ab" * 32}


def test_threads_that_add_at_once_get_versions_of_their_own(store: Store) -> None:
    threads = [
        threading.Thread(target=lambda: [store.models.add("har", _made, actor="me") for _ in range(5)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(row.version for row in store.models.list()) == list(range(1, 21))
