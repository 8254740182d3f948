"""Messages as bytes and blobs: exact, shared, small, and deaf to hostile bytes."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from argosy_common.blobs import BlobStore
from argosy_common.errors import BlobUnknown, EnvelopeMalformed, MessageUnsendable
from argosy_common.flower.arrays import StoredArray
from argosy_common.flower.compat import set_message_id
from argosy_common.flower.messages import MAX_FLOWER, MessageDumper, dump_message, load_message


def instruction(**records: ArrayRecord | ConfigRecord | MetricRecord) -> Message:
    content = RecordDict(
        {
            "config": ConfigRecord({"lr": 0.1, "names": ["a", "b"], "raw": b"\0\1", "yes": True}),
            "arrays": ArrayRecord([np.arange(5000, dtype=np.float64)]),
            "small": ArrayRecord([np.ones(3)]),
            "metrics": MetricRecord({"n": 3, "loss": [0.5, 1.5]}),
            **records,
        }
    )
    message = Message(content, dst_node_id=2**63 + 5, message_type="train.special", ttl=60.0, group_id="4")
    set_message_id(message, "ab" * 16)
    return message


def test_a_message_comes_back_as_it_was(store: BlobStore) -> None:
    message = instruction()
    dumped = dump_message(message, store)
    again = load_message(dumped.flower, store)
    assert again.metadata == message.metadata
    assert list(again.content) == ["config", "arrays", "small", "metrics"]
    assert again.content == message.content
    assert len(dumped.blobs) == 1
    assert isinstance(again.content["arrays"]["0"], StoredArray)


def test_an_error_comes_back_with_its_code_and_no_content(store: BlobStore) -> None:
    reply = Message(Error(5, "gone"), reply_to=instruction())
    dumped = dump_message(reply, store)
    again = load_message(dumped.flower, store)
    assert (again.error.code, again.error.reason, again.has_content(), dumped.blobs) == (5, "gone", False, ())
    assert again.metadata == reply.metadata


def test_an_empty_content_is_not_an_error(store: BlobStore) -> None:
    message = Message(RecordDict(), 5, "query")
    assert load_message(dump_message(message, store).flower, store).has_content()


def test_messages_that_share_content_write_it_once(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    content = RecordDict({"arrays": ArrayRecord([np.arange(5000.0)]), "config": ConfigRecord({"big": "x" * 30000})})
    other = RecordDict({"arrays": content["arrays"]})
    written: list[int] = []
    original = store.writer
    monkeypatch.setattr(store, "writer", lambda: written.append(1) or original())  # type: ignore[func-returns-value]  # counts
    dumper = MessageDumper(store)
    dumps = [dumper.dump(Message(content, node, "train")) for node in range(2, 12)]
    dumps.append(dumper.dump(Message(other, 2, "evaluate")))
    assert len(written) == 2
    assert len({dump.blobs for dump in dumps}) == 2
    assert dumps[-1].blobs[0] in dumps[0].blobs


def test_releasing_gives_the_senders_memory_back_and_keeps_the_digest(store: BlobStore) -> None:
    message = instruction()
    first = dump_message(message, store, release=True)
    assert isinstance(message.content["arrays"]["0"], StoredArray)
    assert dump_message(message, store, release=True) == first
    assert load_message(first.flower, store).content == message.content


def test_a_forwarded_model_keeps_its_blob(store: BlobStore) -> None:
    first = dump_message(instruction(), store)
    received = load_message(first.flower, store)
    assert dump_message(Message(received.content, reply_to=received), store).blobs == first.blobs


def test_large_records_become_blobs_and_the_message_stays_small(store: BlobStore) -> None:
    message = instruction(config=ConfigRecord({"text": "x" * 200_000}))
    dumped = dump_message(message, store)
    assert len(dumped.flower) < 1000
    assert len(dumped.blobs) == 2
    assert load_message(dumped.flower, store).content == message.content


def test_many_small_records_stay_within_the_budget(store: BlobStore) -> None:
    small = {f"r{i}": ArrayRecord([np.full(300, i)]) for i in range(60)}
    dumped = dump_message(instruction(**small), store)
    assert len(dumped.flower) <= MAX_FLOWER
    assert load_message(dumped.flower, store).content["r59"] == small["r59"]


@pytest.mark.parametrize(
    "records",
    [
        {"m": MetricRecord({"n": 2**70})},
        {"m": MetricRecord({"n": -(2**70)})},
        {"c": ConfigRecord({"text": "\ud800"})},
        {"x" * 50_000: ArrayRecord([np.ones(1)])},
        {f"r{i}": ArrayRecord([np.full(3000, i)]) for i in range(130)},
    ],
)
def test_what_no_message_can_hold_is_named(store: BlobStore, records: dict[str, Any]) -> None:
    with pytest.raises(MessageUnsendable):
        dump_message(instruction(**records), store)


def test_a_long_reason_is_cut(store: BlobStore) -> None:
    reply = Message(Error(1, "é" * 100_000), reply_to=instruction())
    flower = dump_message(reply, store).flower
    assert len(flower) < MAX_FLOWER
    assert str(load_message(flower, store).error.reason).startswith("éé")


# --- hostile bytes --------------------------------------------------------------------------------------------------


def sound_fields(store: BlobStore) -> dict[str, Any]:
    fields: dict[str, Any] = msgpack.unpackb(dump_message(instruction(), store).flower)
    return fields


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"v": True},
        {"v": "1"},
        {"extra": 1},
        {"head": "text"},
        {"head": b"\xff\xff"},
        {"head": b""},
        {"content": b"\xff\xff\xff"},
        {"content": None},
        {"content": [b"short", 3]},
        {"content": [b"\0" * 32, 2**41]},
        {"content": [b"\0" * 32, True]},
        {"arrays": {}},
        {"arrays": []},
        {"arrays": {"arrays": b"", "small": b""}},
        {"arrays": {"arrays": 3, "small": 4}},
        {"arrays": {"arrays": b"x", "small": b"x", "third": b"x"}},
    ],
)
def test_hostile_fields_are_refused_by_name(store: BlobStore, change: dict[str, Any]) -> None:
    with pytest.raises(EnvelopeMalformed):
        load_message(msgpack.packb({**sound_fields(store), **change}), store, peer="b")


def test_an_error_with_content_and_content_without_are_refused(store: BlobStore) -> None:
    fields = sound_fields(store)
    error = msgpack.unpackb(dump_message(Message(Error(1, "x"), reply_to=instruction()), store).flower)
    with pytest.raises(EnvelopeMalformed):
        load_message(msgpack.packb({**fields, "head": error["head"]}), store)
    with pytest.raises(EnvelopeMalformed):
        load_message(msgpack.packb({"v": 1, "head": fields["head"]}), store)


def test_a_life_that_is_no_number_is_refused(store: BlobStore) -> None:
    message = instruction()
    message.metadata.ttl = float("nan")
    with pytest.raises(EnvelopeMalformed, match="not a number"):
        load_message(dump_message(message, store).flower, store)


def test_a_blob_that_is_not_there_is_named(store: BlobStore) -> None:
    dumped = dump_message(instruction(), store)
    store.delete(dumped.blobs[0].digest)
    with pytest.raises(BlobUnknown):
        load_message(dumped.flower, store)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(data=st.data())
def test_truncated_and_changed_bytes_raise_only_named_errors(store: BlobStore, data: st.DataObject) -> None:
    sound = dump_message(instruction(), store).flower
    changed = bytearray(sound[: data.draw(st.integers(0, len(sound)))])
    for _ in range(data.draw(st.integers(0, 3))):
        if changed:
            changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    with suppress(EnvelopeMalformed, BlobUnknown):
        load_message(bytes(changed), store)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(head=st.binary(max_size=80), content=st.binary(max_size=80))
def test_random_protobufs_raise_only_named_errors(store: BlobStore, head: bytes, content: bytes) -> None:
    sound = sound_fields(store)
    for fields in ({**sound, "head": head}, {**sound, "content": content, "arrays": {}}):
        with suppress(EnvelopeMalformed):
            load_message(msgpack.packb(fields), store)


def test_the_store_is_all_that_dumping_touches(store: BlobStore, tmp_path: Path) -> None:
    dump_message(instruction(), store)
    assert {path.name for path in tmp_path.iterdir()} == {"blobs"}
