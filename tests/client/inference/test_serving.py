"""Turns, deadlines and swaps, with a session that a test holds up."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from argosy_client.inference.backend import Array
from argosy_client.inference.choose import Choice
from argosy_client.inference.preprocess import picture, prepared
from argosy_client.inference.serving import Loaded, Serving
from argosy_client.inference.trial import Figures
from argosy_common.artefact import Manifest
from argosy_common.errors import DeadlinePassed, InputInvalid, ModelBusy, ModelMissing
from tests.models import artefact, network, windows
from tests.waiting import until


class Held:
    """A session that answers when it is let."""

    ran_on: ClassVar[str] = "CPU"

    def __init__(self) -> None:
        self.go = threading.Event()
        self.running = threading.Event()
        self.closed = False

    def run(self, batch: Array) -> Array:
        self.running.set()
        assert self.go.wait(20)
        assert not self.closed
        return np.zeros((len(batch), 6), np.float32)

    def close(self) -> None:
        self.closed = True


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return artefact(network(), 1)[0]


def loaded(manifest: Manifest, session: Held, *, queue: int = 2) -> Loaded:
    return Loaded(manifest, session, Choice(Figures("held")), queue=queue)


class Callers:
    """Requests on threads, and how they ended."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self.ended: list[object] = []
        self._threads: list[threading.Thread] = []

    def ask(self, deadline_s: float = 20.0) -> None:
        thread = threading.Thread(target=self._ask, args=(deadline_s,))
        self._threads.append(thread)
        thread.start()

    def _ask(self, deadline_s: float) -> None:
        try:
            self.ended.append(self._serving.infer("har", windows(1), deadline_s=deadline_s))
        except Exception as error:  # noqa: BLE001  (what the test is about)
            self.ended.append(error)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(20)


def test_a_few_wait_and_further_ones_are_told_at_once_that_it_is_busy(manifest: Manifest) -> None:
    session, serving = Held(), Serving()
    one = loaded(manifest, session)
    serving.put(one)
    callers = Callers(serving)
    callers.ask()
    assert session.running.wait(20)
    callers.ask()
    callers.ask()
    assert until(lambda: one.stats()["waiting"] == 2)
    with pytest.raises(ModelBusy):
        serving.infer("har", windows(1))
    session.go.set()
    callers.join()
    assert not any(isinstance(each, Exception) for each in callers.ended)
    assert (one.counters.requests, one.counters.busy) == (3, 1)


def test_who_cannot_wait_is_told_so_and_not_served_late(manifest: Manifest) -> None:
    session, serving = Held(), Serving()
    one = loaded(manifest, session)
    serving.put(one)
    callers = Callers(serving)
    callers.ask()
    assert session.running.wait(20)
    with pytest.raises(DeadlinePassed, match="50 ms"):
        serving.infer("har", windows(1), deadline_s=0.05)
    session.go.set()
    callers.join()
    assert (one.counters.requests, one.counters.expired) == (1, 1)


def test_the_old_session_is_closed_when_its_last_request_is_done_and_not_before(manifest: Manifest) -> None:
    old, new, serving = Held(), Held(), Serving()
    new.go.set()
    serving.put(loaded(manifest, old))
    callers = Callers(serving)
    callers.ask()
    assert old.running.wait(20)
    serving.put(loaded(manifest, new))
    assert not old.closed
    serving.infer("har", windows(1))
    old.go.set()
    callers.join()
    assert not any(isinstance(each, Exception) for each in callers.ended)
    assert until(lambda: old.closed)
    serving.drop("har")
    assert new.closed
    with pytest.raises(ModelMissing):
        serving.infer("har", windows(1))


def test_a_backend_that_raises_is_counted_and_does_not_keep_its_turn(manifest: Manifest) -> None:
    class Broken(Held):
        def run(self, batch: Array) -> Array:  # noqa: ARG002  (of a session)
            raise RuntimeError("out of memory")

    serving = Serving()
    one = loaded(manifest, Broken())
    serving.put(one)
    for _ in range(3):
        with pytest.raises(RuntimeError):
            serving.infer("har", windows(1), deadline_s=1.0)
    assert one.counters.errors == 3


def test_what_it_sees_is_sketched_and_kept_now_and_then(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    session, serving = Held(), Serving()
    session.go.set()
    one = loaded(manifest, session)
    serving.put(one)
    began = time.monotonic()
    for turn in range(300):
        monkeypatch.setattr(time, "monotonic", lambda turn=turn: began + turn)
        serving.infer("har", windows(1, seed=turn))
    told = one.stats()
    assert told["sketch"]["inputs"] == 300
    assert told["drift"] is None, "nothing to compare it with"
    assert one.samples().shape == (128, 6, 128)


# --- preparing -----------------------------------------------------------------------------------------------------


def test_inputs_are_standardised_channel_by_channel() -> None:
    rule = {"kind": "standardise", "mean": [1.0] * 6, "deviation": [2.0] * 6}
    made, _ = artefact(network(), 1, preprocessing=rule)
    assert np.allclose(prepared(made, np.full((6, 128), 5.0)), 2.0)
    assert prepared(made, np.ones((2, 6, 128), np.int32)).dtype == np.float32


def photo(width: int, height: int, kind: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (255, 0, 0)).save(stream, kind)
    return stream.getvalue()


def test_pictures_are_read_scaled_and_standardised(tmp_path: Path) -> None:
    made, _ = artefact(
        network(), 1, input={"name": "x", "shape": [3, 8, 10]}, preprocessing={"kind": "image", "mean": [0.5, 0.0, 0.0]}
    )
    for kind in ("JPEG", "PNG"):
        batch = prepared(made, picture(made, photo(40, 32, kind)))
        assert batch.shape == (1, 3, 8, 10)
        assert np.allclose(batch[0, 0], 0.5, atol=0.02)
        assert np.allclose(batch[0, 2], 0.0, atol=0.02)
    for data in (b"", b"GIF89a", photo(40, 32)[:60], b"\xff\xd8\xff" + b"\0" * 100):
        with pytest.raises(InputInvalid):
            picture(made, data)
    with pytest.raises(InputInvalid):
        prepared(made, np.zeros((8, 10, 3), np.float32))


class Away(Held):
    """A session that has somebody else answer."""

    away_s = 0.0

    def run_by(self, batch: Array, deadline: float) -> Array:  # noqa: ARG002  (of `Placed`)
        self.away_s += 0.2
        time.sleep(0.2)
        return np.zeros((len(batch), 6), np.float32)

    def counts(self) -> dict[str, int]:
        return {"remote": 1}


def test_what_somebody_else_takes_is_told_and_does_not_count_against_this_boards_training(manifest: Manifest) -> None:
    one, serving = loaded(manifest, Away()), Serving()
    serving.put(one)
    serving.infer("har", windows(1))
    told = one.stats()
    assert told["remote"] == 1
    assert one.pace()["p95_ms"] < told["p95_ms"]
