"""The same message of the same phase has the same id, in whichever process it is made; any other has another."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from argosy_common.blobs import BlobStore
from argosy_common.flower.compat import become_task
from argosy_common.flower.messages import MessageDumper
from argosy_server.runs.message_ids import MessageIds


@pytest.fixture(autouse=True)
def _server() -> None:
    become_task(run_id=1, node_id=1)


def message(*, node: int = 7, kind: str = "train", number: int = 1, value: float = 1.0, size: int = 9000) -> Message:
    content = RecordDict(
        {
            "arrays": ArrayRecord([np.full(size, value, np.float32)]),
            "config": ConfigRecord({"server-round": number, "lr": 0.1}),
        }
    )
    return Message(content, node, kind, ttl=60.0, group_id=str(number))


def test_what_is_asked_again_is_known_by_its_id_and_nothing_else_is(tmp_path_factory: pytest.TempPathFactory) -> None:
    def made(salt: str, *messages: Message) -> list[str]:
        ids, dumper = MessageIds(salt), MessageDumper(BlobStore(tmp_path_factory.mktemp("b")), release=True)
        return [ids.next(each, 1, dumper) for each in messages]

    first = made("s", message(), message(node=8))
    assert made("s", message(), message(node=8)) == first
    assert len(set(first)) == 2
    others = [message(kind="evaluate"), message(number=2), message(value=2.0), message(value=2.0, size=9)]
    assert len({*first, *made("s", *others)}) == 6
    assert not {*first} & {*made("t", message(), message(node=8))}, "another run"


def test_what_is_asked_twice_on_purpose_has_two_ids_and_what_is_of_no_round_any(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    dumper = MessageDumper(BlobStore(tmp_path_factory.mktemp("b")), release=True)
    one, other = MessageIds("s"), MessageIds("s")
    assert [one.next(message(), 1, dumper) for _ in range(3)] == [other.next(message(), 1, dumper) for _ in range(3)]
    assert len({one.next(message(), 1, dumper) for _ in range(3)}) == 3
    assert one.next(message(), None, dumper) != other.next(message(), None, dumper)
    assert MessageIds("").next(message(), 1, dumper) != MessageIds("").next(message(), 1, dumper)
