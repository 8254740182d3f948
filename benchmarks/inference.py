"""What serving a model costs over running it: time, memory and failures, for a small and a MobileNetV2-sized model.

Small: the CNN of the example `har`, windows of 6 × 128. Large: 3.5 million weights, pictures of 3 × 224 × 224. One
input at a time, one thread, everywhere.

*Limit*: ONNX Runtime called in-process. *Peer*: torch eager. Each installed backend is tried in a process of its own,
as a board does. The socket is that of the inference process, with the same backend as the limit; calls through it and
bare ones take turns of a few dozen, since the machine's speed varies. Auto: what a board chooses by itself, held
against the best of all backends measured again, side by side. Swaps: versions change under three callers that never
pause.
"""

from __future__ import annotations

from benchmarks import one_thread  # isort: split

import io
import random
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from argosy_client.inference import Client
from argosy_client.inference.backend import Material, installed
from argosy_client.inference.choose import choose
from argosy_client.inference.folder import CURRENT, GOLDEN, MANIFEST, ONNX, Version, keep_samples
from argosy_client.inference.host import InferenceHost, Served
from argosy_client.inference.trial import tried
from argosy_common.artefact import Manifest
from argosy_common.artefact.golden import pack_golden
from benchmarks.mobilenet import CLASSES, SHAPE, mobilenet
from benchmarks.report import Benchmark, main
from benchmarks.swaps import blob, swapped

ROOT = Path(__file__).parents[1]
HAR = ROOT / "examples" / "har"
TURN = 25
"""Calls in a row before the other way has its turn."""
CALLERS = 3

Array = NDArray[np.float32]


@dataclass
class Subject:
    """A model that is measured."""

    name: str
    net: object
    shape: tuple[int, ...]
    classes: int
    onnx: bytes

    def inputs(self, count: int, seed: int = 3) -> Array:
        """Return inputs, shape (count, *shape)."""
        return np.random.default_rng(seed).normal(size=(count, *self.shape)).astype(np.float32)


def measure(bench: Benchmark) -> None:
    """One model after the other, then the swaps."""
    if not one_thread.held():
        raise RuntimeError("numpy was imported before this benchmark could keep BLAS to one thread")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    with tempfile.TemporaryDirectory(prefix="argosy-inference-") as folder:
        for subject in subjects():
            _measure(bench, subject, Path(folder) / subject.name)
        _swaps(bench, subjects()[0], Path(folder) / "swaps")


def subjects() -> list[Subject]:
    """Return the small model and the large one, exported."""
    import torch  # noqa: PLC0415  (after BLAS was told)

    sys.path.insert(0, str(HAR))
    from har.model import Net  # noqa: PLC0415  (from the example's folder)

    torch.set_num_threads(1)
    torch.manual_seed(0)
    made = [("small", Net().eval(), (6, 128), 6), ("large", mobilenet(), SHAPE, CLASSES)]
    return [Subject(name, net, shape, classes, exported(net, shape)) for name, net, shape, classes in made]


def exported(net: object, shape: tuple[int, ...]) -> bytes:
    """Return a network as ONNX, with any batch."""
    import torch  # noqa: PLC0415  (after BLAS was told)

    stream = io.BytesIO()
    torch.onnx.export(
        net,  # type: ignore[arg-type]  # a module
        (torch.zeros(1, *shape),),
        stream,  # type: ignore[arg-type]  # a stream as well
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": {0: "n"}, "y": {0: "n"}},
        opset_version=17,
        dynamo=False,
    )
    return stream.getvalue()


def version_of(subject: Subject, models: Path, number: int = 1, **fields: object) -> Version:
    """Write a version as a board keeps it, and put it in force."""
    golden_in = subject.inputs(4)
    bare = _bare(subject.onnx)
    vectors = pack_golden(golden_in, np.concatenate([bare(one[np.newaxis]) for one in golden_in]))
    manifest = Manifest.model_validate(
        {
            "name": subject.name,
            "version": number,
            "created_at": "2026-11-26T00:00:00+00:00",
            "onnx": blob(subject.onnx),
            "input": {"name": "x", "shape": list(subject.shape)},
            "output": {"name": "y", "shape": [subject.classes]},
            "golden": {"blob": blob(vectors), "count": len(golden_in)},
            **fields,
        }
    )
    folder = models / subject.name / str(number)
    folder.mkdir(parents=True)
    for name, data in ((ONNX, subject.onnx), (GOLDEN, vectors), (MANIFEST, manifest.canonical())):
        (folder / name).write_bytes(data)
    previous = number - 1 or "null"
    (folder.parent / CURRENT).write_text(f'{{"version": {number}, "previous": {previous}}}')
    return Version.open(folder)


def _bare(model: bytes) -> Callable[[Array], Array]:
    """Return ONNX Runtime, called in-process."""
    import onnxruntime as ort  # noqa: PLC0415  (after BLAS was told)

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(batch: Array) -> Array:
        found: Array = session.run(None, {"x": batch})[0]
        return found

    return run


def _measure(bench: Benchmark, subject: Subject, folder: Path) -> None:
    one = subject.inputs(1)
    seconds = (1.0 if subject.name == "small" else 2.5) * (0.6 if bench.quick else 3)
    version = version_of(subject, folder / "all")
    keep_samples(version.path.parent, subject.inputs(64, seed=9))
    with bench.progress(f"{subject.name}: backends", len(installed())) as step:
        for name in installed():
            step(name)
            found = tried(name, version, seconds=seconds / 2)
            why = installed()[name].unavailable(Path("/")) or found.refused
            if why:
                bench.row(model=subject.name, backend=name, cannot=why[:100])
                continue
            bench.row(
                model=subject.name,
                backend=name,
                ran_on=found.ran_on,
                p50_ms=found.p50_ms,
                p95_ms=found.p95_ms,
                inputs_a_second=1000 / found.p50_ms,
                rss_mb=found.rss_mb,
                agreement=found.agreement,
            )
    _socket(bench, subject, folder / "socket", one, seconds)
    _auto(bench, subject, version, one, seconds)


def _socket(bench: Benchmark, subject: Subject, folder: Path, one: Array, seconds: float) -> None:
    """Compare calls through the socket with bare ones, and with torch, in turns."""
    import torch  # noqa: PLC0415  (after BLAS was told)

    version_of(subject, folder / "models", backends=["onnxruntime"])
    host = InferenceHost(Served(folder / "models", folder / "s", log_level="ERROR"), rng=random.Random(1))
    host.start()
    try:
        if not host.wait_ready(60):
            raise RuntimeError("the inference process did not start")
        tensor = torch.from_numpy(one)
        net: Callable[[torch.Tensor], torch.Tensor] = subject.net  # type: ignore[assignment]  # a module
        bare = _bare(subject.onnx)
        with Client(folder / "s") as client, torch.inference_mode():
            ways: dict[str, Callable[[], object]] = {
                "bare ONNX Runtime (limit)": lambda: bare(one),
                "socket": lambda: client.infer(subject.name, one),
                "torch eager (peer)": lambda: net(tensor),
            }
            found = _in_turns(ways, seconds * 2)
        rss = _rss_mb(host.pid)
    finally:
        host.stop()
    for name, times in found.items():
        p50, p99 = np.percentile(times, [50, 99])
        memory = rss if name == "socket" else None
        speed = {"p50_ms": p50, "p99_ms": p99, "inputs_a_second": 1000 / p50, "calls": len(times), "rss_mb": memory}
        bench.row(model=subject.name, way=name, **speed)
    limit, ours = (float(np.median(found[name])) for name in ("bare ONNX Runtime (limit)", "socket"))
    if subject.name == "large":
        bench.bar("socket_over_bare_large", ours / limit, "<= 1.3", "ONNX Runtime in-process, p50, calls in turns")
    else:
        bench.bar("socket_added_ms_small", ours - limit, "<= 0.1", "ONNX Runtime in-process, p50, calls in turns")


def _in_turns(ways: dict[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """Return the milliseconds of each call of each way, a few calls of one after a few of the other."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for call in ways.values():
        for _ in range(10):
            call()
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        for name, call in ways.items():
            call()  # back in the caches
            for _ in range(TURN):
                began = time.perf_counter()
                call()
                found[name].append(1000 * (time.perf_counter() - began))
    return found


def _auto(bench: Benchmark, subject: Subject, version: Version, one: Array, seconds: float) -> None:
    """Let a board choose, then measure all that are right again, in turns, in this process."""
    choice = choose(version)
    right = [choice.backend, *(each.backend for each in choice.others if not each.refused)]
    sessions = {
        name: installed()[name].open(Material(version.onnx, version.manifest, version.samples, version.work))
        for name in right
    }
    ways: dict[str, Callable[[], object]] = {name: partial(each.run, one) for name, each in sessions.items()}
    medians = {name: float(np.median(times)) for name, times in _in_turns(ways, seconds * 2).items()}
    best = min(medians, key=lambda name: medians[name])
    bench.row(model=subject.name, way=f"auto: {choice.backend}", p50_ms=medians[choice.backend], best=best)
    _worst.append(medians[choice.backend] / medians[best])
    if subject.name == "large":
        bench.bar(
            "auto_over_best", max(_worst), "<= 1.05", "the best installed backend, p50, calls in turns; worse model"
        )


_worst: list[float] = []


def _swaps(bench: Benchmark, subject: Subject, folder: Path) -> None:
    """Swap versions under callers that never pause, until ten thousand requests and ten swaps are over."""
    least, swaps = 10_000, 12
    version_of(subject, folder / "models", backends=["onnxruntime"])
    host = InferenceHost(Served(folder / "models", folder / "s", log_level="ERROR"), rng=random.Random(1))
    host.start()
    try:
        if not host.wait_ready(60):
            raise RuntimeError("the inference process did not start")
        done = threading.Event()
        told = [swapped(folder / "s", subject.name, subject.inputs(1), done) for _ in range(CALLERS)]
        number = 1
        with bench.progress("swaps", swaps) as step:
            while number <= swaps or sum(each.requests for each in told) < least:
                number += 1
                step(f"version {number}")
                version_of(subject, folder / "models", number, backends=["onnxruntime"])
                host.load(subject.name)
        done.set()
        for each in told:
            each.thread.join(30)
    finally:
        host.stop()
    times = np.concatenate([each.times for each in told])
    failed = sum(each.failed for each in told)
    bench.row(
        model=subject.name,
        way=f"{CALLERS} callers during {number - 1} swaps",
        p50_ms=float(np.percentile(times, 50)),
        p99_ms=float(np.percentile(times, 99)),
        calls=len(times),
        failed=failed,
    )
    bench.bar("failed_during_swaps", failed, "<= 0", f"{len(times)} requests during {number - 1} swaps")


def _rss_mb(pid: int | None) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


if __name__ == "__main__":
    raise SystemExit(main("inference", __doc__, measure, packages=("onnxruntime", "openvino", "torch")))
