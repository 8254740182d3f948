"""What a codec loses and what it takes: error against theory, time against a memcpy, in one thread.

Error: squared error over squared length (NMSE) of one vector, on 2^22 normal values and on a real update: what one
device of the example `har` sends (HAPT recordings), after local training from a model that a few rounds made. Held
against rate–distortion, 4^-b, which nothing can beat; against EDEN's theory, D/(1−D) with D the distortion of the best
quantiser of the normal law; and against what people write first: whole numbers between the smallest and the largest
value.

Time: encode, and decode into memory that was touched before, of a float32 vector, checksum and frame included, over
`numpy.copyto` of the same vector into such memory; the best of several turns, taken in turn with the copy, since the
speed of memory varies from one minute to the next. Beside them a Hadamard transform by butterflies, as most published
code has it.
"""

from __future__ import annotations

from benchmarks import one_thread  # isort: split

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from argosy_common.codec.base import Codec
from argosy_common.codec.frame import decode_frame, decode_vector, encode_frame
from argosy_common.codec.lloyd_max import eden_nmse
from argosy_common.codec.registry import get_codec
from benchmarks.report import Benchmark, main

ROOT = Path(__file__).parents[1]
HAR = ROOT / "examples" / "har"
NORMAL = 1 << 22
SIZES = (1 << 20, 1 << 23)
EDEN = tuple(f"eden:{bits}" for bits in (1, 2, 3, 4))
OTHERS = ("none", "fp16", "bf16", "int8", "topk:0.01")
LOSSY = (*EDEN, "int8", "fp16", "bf16", "topk:0.01")
MARGIN = "<= 1.03"

Vector = NDArray[np.float32]


def measure(bench: Benchmark) -> None:
    """Errors first, then times."""
    if not one_thread.held():
        raise RuntimeError("numpy was imported before this benchmark could keep BLAS to one thread")
    rng = np.random.default_rng(5)
    update = har_update(rounds=2 if bench.quick else 5)
    vectors = {"normal": rng.standard_normal(NORMAL, dtype=np.float32), "har update": update}
    _errors(bench, vectors, rng)
    _times(bench, rng)


# --- error ----------------------------------------------------------------------------------------------------------


def _errors(bench: Benchmark, vectors: dict[str, Vector], rng: np.random.Generator) -> None:
    for name in LOSSY:
        found = {label: _nmse(name, vector, rng) for label, vector in vectors.items()}
        bits = int(name[-1]) if name in EDEN else None
        bench.row(
            codec=name,
            bits_a_value=8 * len(encode_frame(get_codec(name), vectors["normal"], rng)) / NORMAL,
            rate_distortion=4.0**-bits if bits else None,
            eden_theory=eden_nmse(bits) if bits else None,
            nmse_normal=found["normal"],
            nmse_har_update=found["har update"],
        )
        if bits:
            against = "EDEN theory D/(1-D), normal values"
            bench.bar(f"nmse_ratio_eden_{bits}", found["normal"] / eden_nmse(bits), MARGIN, against)
    for label, vector in vectors.items():
        centred = vector - vector.mean()
        kurtosis = float(np.mean(centred.astype(np.float64) ** 4) / np.mean(centred.astype(np.float64) ** 2) ** 2)
        bench.row(vector=label, values=len(vector), kurtosis=kurtosis, nmse_int4_min_to_max=_min_to_max(vector, rng))


def _nmse(name: str, vector: Vector, rng: np.random.Generator) -> float:
    """Return the mean over a few encodings, as many as a million values take."""
    codec = get_codec(name)
    times = max(1, (1 << 20) // len(vector))
    errors = [
        np.sum(np.square(decode_vector(encode_frame(codec, vector, rng), codec, len(vector), peer="us") - vector))
        for _ in range(times)
    ]
    return float(np.mean(errors) / np.sum(np.square(vector)))


def _min_to_max(vector: Vector, rng: np.random.Generator) -> float:
    """Return the error of 16 steps between the least and the greatest value, stochastically rounded."""
    low, step = float(vector.min()), float(vector.max() - vector.min()) / 15
    codes = np.floor((vector - low) / step + rng.random(len(vector), dtype=np.float32))
    return float(np.sum(np.square(codes * step + low - vector)) / np.sum(np.square(vector)))


def har_update(rounds: int) -> Vector:
    """Return one device's update of the example app, flat: trained here, on real recordings."""
    sys.path.insert(0, str(HAR))
    import torch  # noqa: PLC0415  (only where training is)
    from har.data import load_person  # noqa: PLC0415  (from the example's folder)
    from har.model import Net, train  # noqa: PLC0415  (likewise)
    from prepare import prepare  # noqa: PLC0415  (likewise)

    data = prepare(ROOT / ".demo" / "data", lambda _: None)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    net = Net()

    def trained(person: int, seed: int) -> list[torch.Tensor]:
        copy = Net()
        copy.load_state_dict(net.state_dict())
        generator = torch.Generator().manual_seed(seed)
        windows = load_person(str(data), person).train
        train(copy, windows, epochs=1, lr=0.05, batch_size=32, turn_degrees=30.0, generator=generator)
        return [parameter.detach() for parameter in copy.parameters()]

    for number in range(rounds):
        results = [trained(person, number) for person in (1, 2, 3)]
        with torch.no_grad():
            for parameter, parts in zip(net.parameters(), zip(*results, strict=True), strict=True):
                parameter.copy_(torch.stack(parts).mean(0))
    changes = [new - old for new, old in zip(trained(4, 99), net.parameters(), strict=True)]
    update: Vector = torch.cat([change.detach().flatten() for change in changes]).numpy()
    return update


# --- time -----------------------------------------------------------------------------------------------------------


def _times(bench: Benchmark, rng: np.random.Generator) -> None:
    worst = {"encode": 0.0, "decode": 0.0}
    with bench.progress("codec times", 2) as step:
        for size in SIZES:
            step(f"{size} values")
            turns = (4 if bench.quick else 15) if size == SIZES[-1] else 20
            best = _best(size, turns, rng)
            copy = best.pop("copy")
            for name in (*EDEN, *OTHERS):
                encode, decode = best[f"{name} encode"] / copy, best[f"{name} decode"] / copy
                bench.row(
                    codec=name, values=size, memcpy_ms=1000 * copy, encode_over_memcpy=encode, decode_over_memcpy=decode
                )
                if size == SIZES[-1] and name in EDEN:
                    worst = {"encode": max(worst["encode"], encode), "decode": max(worst["decode"], decode)}
            bench.row(peer="Hadamard by butterflies alone", values=size, over_memcpy=best["butterflies"] / copy)
    against = "numpy.copyto of the same 2^23 values, same minutes; the slowest of eden:1 to eden:4"
    bench.bar("encode_memcpy", worst["encode"], "<= 10", against)
    bench.bar("decode_memcpy", worst["decode"], "<= 8", against)


def _best(size: int, turns: int, rng: np.random.Generator) -> dict[str, float]:
    """Return the seconds of each piece of work, the best of its turns."""
    vector = rng.standard_normal(size, dtype=np.float32)
    target = np.zeros_like(vector)
    work: dict[str, Callable[[], object]] = {"copy": lambda: np.copyto(target, vector)}
    for name in (*EDEN, *OTHERS):
        codec = get_codec(name)
        frame = encode_frame(codec, vector, rng)
        work[f"{name} encode"] = lambda codec=codec: encode_frame(codec, vector, rng)  # type: ignore[misc]  # bound now
        work[f"{name} decode"] = lambda codec=codec, frame=frame: _decode_to(target, frame, codec)  # type: ignore[misc]  # bound now
    work["butterflies"] = lambda: butterflies(vector)
    best = dict.fromkeys(work, float("inf"))
    for _ in range(turns):
        for name, do in work.items():
            for again in (name, "copy"):  # the copy between any two: memory is not equally fast all the time
                begun = time.perf_counter()
                (do if again == name else work["copy"])()
                best[again] = min(best[again], time.perf_counter() - begun)
    return best


def _decode_to(target: Vector, frame: bytes, codec: Codec) -> None:
    at = 0
    for chunk in decode_frame(frame, codec, len(target), peer="us"):
        target[at : at + len(chunk)] = chunk
        at += len(chunk)


def butterflies(vector: Vector) -> Vector:
    """The Hadamard transform of blocks of 4096 by twelve passes of sums and differences."""
    blocks = vector.reshape(-1, 4096).copy()
    for half in _halves():
        pairs = blocks.reshape(-1, 4096 // (2 * half), 2, half)
        sums = pairs[:, :, 0] + pairs[:, :, 1]
        np.subtract(pairs[:, :, 0], pairs[:, :, 1], out=pairs[:, :, 1])
        pairs[:, :, 0] = sums
    blocks /= 64
    return blocks.reshape(-1)


def _halves() -> Iterator[int]:
    half = 1
    while half < 4096:
        yield half
        half *= 2


if __name__ == "__main__":
    raise SystemExit(main("codec", __doc__, measure, packages=("torch",)))
