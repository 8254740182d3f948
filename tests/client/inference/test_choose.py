"""Which backend is taken: the fastest that is right; and what becomes of those that are wrong, or crash."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from argosy_client.inference.backend import Array, Backend, Material, installed
from argosy_client.inference.backends.litert import LiteRt, LiteRtInt8
from argosy_client.inference.backends.onnx_runtime import Fp32
from argosy_client.inference.choose import choose
from argosy_client.inference.folder import Version
from argosy_client.inference.trial import Figures, tried, try_here
from argosy_common.artefact.golden import pack_golden
from argosy_common.errors import ArtefactInvalid, NoBackend
from tests.litert import linear_pair
from tests.models import answers, network, put, samples, windows


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def version(models: Path) -> Version:
    return put(models, network(), 1)


class Odd(Fp32):
    """A backend whose session does what a test says."""

    name = "odd"

    def __init__(self, does: str) -> None:
        self._does = does

    def open(self, material: Material) -> OddSession:  # type: ignore[override]  # a session all the same
        if self._does == "raise" or (self._does == "raise when served" and serving()):
            raise RuntimeError("out of luck")
        return OddSession(self._does, material)


class OddSession:
    ran_on: ClassVar[str] = "nothing"

    def __init__(self, does: str, material: Material) -> None:
        self._does = does
        self._right = Fp32().open(material)
        self._known: dict[bytes, Array] = {}

    def run(self, batch: Array) -> Array:
        if self._does == "crash" or (self._does == "crash when served" and serving()):
            os.kill(os.getpid(), signal.SIGSEGV)
        if self._does == "hang":
            time.sleep(600)
        if "when served" in self._does:  # and until then it is the fastest
            key = batch.tobytes()
            if key not in self._known:
                self._known[key] = self._right.run(batch)
            return self._known[key]
        outputs = self._right.run(batch).astype(np.float32)
        return outputs * np.float32({"wrong": 1.1, "nan": np.nan}.get(self._does, 1.0))

    def close(self) -> None:
        self._right.close()


def serving() -> bool:
    """Tell whether this is the inference process, and not a trial."""
    spec = sys.modules["__main__"].__spec__
    return spec is not None and spec.name == "argosy_client.inference.process"


def figures(name: str, p95: float, *, rss: float = 50.0, refused: str = "") -> Figures:
    return Figures(name, refused, "CPU", p95 / 2, p95, rss)


# --- one backend, for real -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["onnxruntime", "onnxruntime-int8", "onnxruntime-int8-signed", "openvino"])
def test_every_installed_backend_gives_right_answers_and_says_what_ran(
    models: Path, version: Version, backend: str
) -> None:
    why = installed()[backend].unavailable(Path("/"))
    if why is not None:
        pytest.skip(why)
    samples(models)
    found = tried(backend, version, seconds=0.05)
    assert found.refused == ""
    assert "CPU" in found.ran_on
    assert 0 < found.p50_ms <= found.p95_ms
    assert 10 < found.rss_mb < 2000
    assert found.agreement >= 0.99


def test_a_form_of_another_runtime_is_run_checked_and_refused_where_it_is_missing_wrong_or_none(models: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    backend = LiteRt()
    onnx, litert = linear_pair()
    good = try_here(backend, put(models, onnx, 1, forms={"litert": litert}), threads=1, seconds=0.05)
    assert (good.refused, good.ran_on) == ("", "CPU (LiteRT)")
    assert good.p50_ms > 0
    missing = try_here(backend, put(models, onnx, 2), threads=1, seconds=0.0)
    assert "forms.litert" in missing.refused
    wrong = try_here(backend, put(models, onnx, 3, forms={"litert": linear_pair(off=0.5)[1]}), threads=1, seconds=0.0)
    assert "golden inputs are wrong" in wrong.refused
    assert try_here(backend, put(models, onnx, 4, forms={"litert": b"none"}), threads=1, seconds=0.0).refused
    samples(models)
    assert (
        try_here(LiteRtInt8(), put(models, onnx, 5, forms={"litert-int8": litert}), threads=1, seconds=0.0).agreement
        == 1
    )


def test_a_form_that_went_bad_on_the_card_is_noticed(models: Path) -> None:
    version = put(models, network(), 1, forms={"litert": b"a form"})
    assert version.form("litert") is not None
    assert version.form("hailo") is None
    (version.path / "litert.form").write_bytes(b"another")
    with pytest.raises(ArtefactInvalid, match=r"litert\.form"):
        Version.open(version.path)


def test_int8_is_not_used_without_inputs_of_this_board(version: Version) -> None:
    assert "32 inputs of this board" in tried("onnxruntime-int8", version).refused


@pytest.mark.parametrize(("does", "why"), [("wrong", "wrong"), ("nan", "wrong"), ("raise", "out of luck")])
def test_a_backend_that_is_wrong_is_refused_by_name(version: Version, does: str, why: str) -> None:
    assert why in try_here(Odd(does), version, threads=1, seconds=0.0).refused


@pytest.mark.parametrize(("does", "why"), [("crash", "signal 11"), ("hang", "no answer after 3 s")])
def test_a_backend_that_crashes_or_hangs_takes_nobody_with_it(
    version: Version, does: str, why: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plug_in(tmp_path, monkeypatch, does)
    found = tried("odd", version, timeout_s=60.0 if does == "crash" else 3.0)
    assert why in found.refused


def plug_in(folder: Path, monkeypatch: pytest.MonkeyPatch, does: str) -> None:
    """Install a distribution that brings the backend `odd`, for child processes."""
    (folder / "odd_backend.py").write_text(
        f"from tests.client.inference.test_choose import Odd\ndef make():\n    return Odd({does!r})\n"
    )
    meta = folder / "odd_backend-1.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-backend\nVersion: 1\n")
    (meta / "entry_points.txt").write_text("[argosy.backends]\nodd = odd_backend:make\n")
    root = Path(__file__).parents[3]
    path = os.pathsep.join([str(folder), str(root), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)


def test_golden_vectors_that_were_changed_leave_no_backend(models: Path) -> None:
    model, inputs = network(), windows(4)
    put(models, model, 1, golden=pack_golden(inputs, answers(model, inputs) + 1.0))
    with pytest.raises(NoBackend, match="golden inputs are wrong"):
        choose(Version.open(models / "har" / "1"), backends={"onnxruntime": Fp32()})


# --- the choice ----------------------------------------------------------------------------------------------------


class Bench:
    """Backends with figures that a test gives, and how often each was tried."""

    def __init__(self, *found: Figures) -> None:
        self.found = {each.backend: each for each in found}
        self.asked: list[tuple[str, float]] = []

    @property
    def backends(self) -> dict[str, Backend]:
        return {name: Fp32() for name in self.found}

    def tried(self, name: str, _version: Version, *, threads: int, seconds: float = 0.3) -> Figures:
        assert threads == 1
        self.asked.append((name, seconds))
        return self.found[name]


def test_the_lowest_p95_within_the_memory_budget_is_taken_and_the_rest_is_told(version: Version) -> None:
    bench = Bench(
        figures("fast", 1.0, rss=900.0),
        figures("good", 2.0),
        figures("slow", 3.0),
        figures("bad", 0.1, refused="it lies"),
    )
    choice = choose(version, budget_mb=500.0, backends=bench.backends, try_one=bench.tried)
    assert choice.backend == "good"
    assert {each.backend for each in choice.others} == {"fast", "slow", "bad"}
    assert choose(version, budget_mb=None, backends=bench.backends, try_one=bench.tried).backend == "fast"


def test_new_weights_are_checked_and_not_measured_again(models: Path, version: Version) -> None:
    bench = Bench(figures("a", 2.0), figures("b", 1.0))
    assert choose(version, backends=bench.backends, try_one=bench.tried).backend == "b"
    bench.asked.clear()
    choice = choose(put(models, network(seed=2), 2), backends=bench.backends, try_one=bench.tried)
    assert (choice.backend, choice.remembered) == ("b", True)
    assert bench.asked == [("b", 0.0)]


def test_one_that_was_right_once_and_is_not_any_more_is_chosen_anew(models: Path, version: Version) -> None:
    bench = Bench(figures("a", 2.0), figures("b", 1.0))
    choose(version, backends=bench.backends, try_one=bench.tried)
    bench.found["b"] = figures("b", 1.0, refused="it got worse")
    assert choose(put(models, network(seed=2), 2), backends=bench.backends, try_one=bench.tried).backend == "a"


def test_another_structure_another_budget_and_a_broken_memory_are_measured_anew(models: Path, version: Version) -> None:
    bench = Bench(figures("a", 2.0))
    choose(version, backends=bench.backends, try_one=bench.tried)
    bigger = put(models, network(channels=16), 2)
    assert not choose(bigger, backends=bench.backends, try_one=bench.tried).remembered
    assert not choose(bigger, budget_mb=100.0, backends=bench.backends, try_one=bench.tried).remembered
    for rubbish in (b"", b"[]", b'{"key": 1}', json.dumps({"key": "x", "figures": {}}).encode()):
        (models / "har" / "chosen.json").write_bytes(rubbish)
        assert not choose(bigger, backends=bench.backends, try_one=bench.tried).remembered


def test_the_manifest_may_say_which_backends_are_allowed(models: Path) -> None:
    version = put(models, network(), 1, backends=["b"])
    bench = Bench(figures("a", 1.0), figures("b", 2.0))
    choice = choose(version, backends=bench.backends, try_one=bench.tried)
    assert choice.backend == "b"
    assert "manifest" in choice.unavailable["a"]


def test_where_none_can_be_used_each_says_why(version: Version) -> None:
    bench = Bench(figures("a", 1.0, refused="it crashed (signal 11)"), figures("b", 1.0, rss=900.0))
    with pytest.raises(NoBackend, match=r"signal 11.*900 MB"):
        choose(version, budget_mb=500.0, backends=bench.backends, try_one=bench.tried)


def test_plug_ins_for_other_hardware_say_what_they_need(tmp_path: Path) -> None:
    why = {name: backend.unavailable(tmp_path) or "" for name, backend in installed().items()}
    assert "/dev/apex_0" in why["edgetpu"]
    assert "/dev/hailo0" in why["hailo"]
    assert "/dev/nvidia0" in why["onnxruntime-cuda"]
    usb = tmp_path / "sys/bus/usb/devices/1-1"
    usb.mkdir(parents=True)
    (usb / "idVendor").write_text("1a6e\n")
    (usb / "idProduct").write_text("089a\n")
    assert "this board has no" not in (installed()["edgetpu"].unavailable(tmp_path) or "")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia0").touch()
    assert "no CUDAExecutionProvider" in (installed()["onnxruntime-cuda"].unavailable(tmp_path) or "")
    assert not any(
        backend.tested for name, backend in installed().items() if name in ("edgetpu", "hailo", "onnxruntime-cuda")
    )
