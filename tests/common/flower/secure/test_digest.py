"""The instruction's digest: equal exactly where a device would be asked the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from argosy_common.blobs import BlobStore
from argosy_common.flower import compat
from argosy_common.flower.messages import dump_message, load_message
from argosy_common.flower.secure import SECAGG
from argosy_common.flower.secure.digest import instruction_digest


def content(weights: float = 1.0, **config: Any) -> RecordDict:  # noqa: ANN401  (what a ConfigRecord holds)
    """An instruction's records."""
    arrays = ArrayRecord({"w": Array(np.full((3, 2), weights, np.float32)), "b": Array(np.zeros(2))})
    told = ConfigRecord({"lr": 0.1, "names": ["a", "b"], **config})
    return RecordDict({"arrays": arrays, "config": told, "metrics": MetricRecord({"seen": 3})})


def digest(records: RecordDict, kind: str = "train", app: bytes = b"app", **run_config: Any) -> bytes:  # noqa: ANN401
    """Its digest."""
    return instruction_digest(kind, records, app=app, run_config=run_config)


def test_it_survives_the_wire_and_this_layers_own_records(tmp_path: Path) -> None:
    """Arrays that lie in a file, records that were added."""
    compat.become_task(run_id=1, node_id=1)
    store = BlobStore(tmp_path)
    message = Message(content(), 7, "train")
    compat.set_message_id(message, "0" * 32)
    arrived = load_message(dump_message(message, store, inline_limit=0).flower, store).content
    arrived[SECAGG] = ConfigRecord({"stage": "update"})
    assert digest(arrived) == digest(content())


@pytest.mark.parametrize(
    "changed",
    [
        lambda: digest(content(1.5)),
        lambda: digest(content(lr=0.2)),
        lambda: digest(content(more=1)),
        lambda: digest(content(names=["ab"])),
        lambda: digest(content(names=["a", "b", "c"])),
        lambda: digest(content(), kind="evaluate"),
        lambda: digest(content(), app=b"other"),
        lambda: digest(content(), epochs=1),
        lambda: digest(RecordDict({"model": content()["arrays"], "config": content()["config"]})),
    ],
)
def test_whatever_is_asked_differently_has_another_digest(changed: Callable[[], bytes]) -> None:
    """Model, configuration, type, app, names."""
    assert changed() != digest(content())


def test_numbers_of_another_type_are_another_instruction() -> None:
    """1, 1.0 and True look alike, and an app may not take them alike."""
    assert len({digest(content(lr=value)) for value in (1, 1.0, True, "1", b"1", [1], [1.0])}) == 7
