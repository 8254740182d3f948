"""Secure aggregation against Flower's SecAgg+: CPU of a device and of the server, bytes, messages, error of the mean.

Both sum the same vectors in the same process, BLAS in one thread: Flower's own client and server code
(`secagg_plus.py`), and ours with its signatures, boxes and checks (`secure_round.py`). In both, every device is a
client and holds shares of all others, and the same number of shares (U) finishes the round. Where devices drop out, a
quarter vanish at the worst moment: in SecAgg+ once they have shared their keys, so that the server makes all their
masks again; in ours once they are in the roster, as clients and as holders.

A device's time is all that it does in a round: in ours its masked update, and then its part as a holder, which are also
shown one by one. Training, the wire, journals and records are on neither side. The error is that of the mean of the
devices that stayed, over its square; ours has the scales of a run's second round. Updates agree in part, and their
spread differs from layer to layer.

Accuracy: the example `har` on real recordings (HAPT) with a real coordinator, broker and 20 device daemons, 10 of them
training a round and all evaluating, with and without `--secure`; the mean of the last five of 40 rounds, over 3 seeds.
"""

from __future__ import annotations

from benchmarks import one_thread  # isort: split

from statistics import fmean
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from argosy_common.secagg.parameters import PRIMES, Parameters
from benchmarks.compressed_run import FULL, Seen, har_fleet, run_har
from benchmarks.report import Benchmark, main
from benchmarks.secure_round import Group

MB = 1_000_000
LAYERS = 10
ROUNDS = 3
"""Of ours in a case, beside one that is not counted."""
ERROR_GOALS = {65521: "<= 0.000001", 251: "<= 0.01"}
BYTES_GOALS = {65521: "<= 3.2", 251: "<= 1.6"}

Vector = NDArray[np.float32]


class Case(NamedTuple):
    """n devices, updates of d values, and how many devices drop out."""

    n: int
    d: int
    dropping: int

    def __str__(self) -> str:
        return f"n = {self.n}, d = {self.d}, {self.dropping} dropping"


class Cost(NamedTuple):
    """What one round cost, CPU seconds, and how far off its mean was.

    Attributes:
        client_s: of a device up to its masked update; in SecAgg+ all that it does.
        holder_s: of the same device after it.
        server_s: of the server.
        bytes_up: all that a device sends.
        messages: that a device sends as a client.
        nmse: squared error of the mean over its square.
    """

    client_s: float
    holder_s: float
    server_s: float
    bytes_up: float
    messages: int
    nmse: float

    @property
    def device_s(self) -> float:
        """All that a device does."""
        return self.client_s + self.holder_s


CASES = tuple(Case(n, d, dropping) for n in (8, 32) for d in (10**5, 10**6) for dropping in (0, n // 4))
LARGEST = CASES[-1]
QUICK = Case(32, 10**5, 8)


def measure(bench: Benchmark) -> None:
    """Case by case Flower's first, then ours; the bars are of the largest."""
    if not one_thread.held():
        raise RuntimeError("numpy was imported before this benchmark could keep BLAS to one thread")
    cases = (QUICK,) if bench.quick else CASES
    with bench.progress("secure", 2 * len(cases) + bench.quick) as step:
        for case in cases:
            vectors = updates(case)
            step(f"Flower's SecAgg+, {case}")
            theirs = _theirs(bench, case, vectors)
            step(f"ours, {case}")
            ours = _ours(bench, case, vectors, theirs)
        if theirs:
            against = f"Flower's SecAgg+ (flwr's own code), same vectors and process, {case}"
            bench.bar("client_ratio", theirs.device_s / ours[65521].device_s, ">= 15", against)
            bench.bar("server_ratio", theirs.server_s / ours[65521].server_s, ">= 100", against)
        if bench.quick:
            step(f"ours, {LARGEST}")
            ours = _ours(bench, LARGEST, updates(LARGEST), None)
            bench.left_out(f"SecAgg+ at d = {LARGEST.d}, and all other cases; its ratios are those of {QUICK}")
    for p in PRIMES:
        bench.bar(f"bytes_up_mb_{p}", ours[p].bytes_up / MB, BYTES_GOALS[p], f"specification, {LARGEST}")
    for p in PRIMES:
        bench.bar(f"nmse_{p}", ours[p].nmse, ERROR_GOALS[p], f"the mean of the same updates in float64, {LARGEST}")
    bench.bar(
        "client_messages",
        ours[65521].messages,
        "<= 1",
        "4 of SecAgg+; a device that is a holder also votes, and sends its sum",
    )
    if bench.quick:
        bench.left_out("accuracy on HAPT")
    else:
        _accuracy(bench)


def _accuracy(bench: Benchmark) -> None:
    """Run the app with and without, seed by seed."""
    found: dict[bool, list[Seen]] = {False: [], True: []}
    with bench.progress("accuracy", 2 * len(FULL.seeds)) as step, har_fleet(FULL) as (fleet, data):
        for seed in FULL.seeds:
            for secure, runs in found.items():
                step(f"{'secure' if secure else 'plain'}, seed {seed}")
                runs.append(run_har(fleet, FULL, seed, data, secure=secure))
    for secure, runs in found.items():
        bench.row(
            who="HAPT, secure" if secure else "HAPT, plain",
            accuracy=fmean(run.accuracy for run in runs),
            kb_up_a_device_and_round=fmean(run.up for run in runs) / FULL.rounds / FULL.trained / 1000,
        )
    loss = 100 * (fmean(run.accuracy for run in found[False]) - fmean(run.accuracy for run in found[True]))
    bench.bar("secure_accuracy_loss", loss, "<= 0.5", "the same runs without --secure, same process run; points")


def updates(case: Case) -> list[Vector]:
    """Return updates that agree in part, of layers whose spreads differ by up to a hundred times."""
    rng = np.random.default_rng(case.d + case.n)
    spread = np.repeat(np.geomspace(0.001, 0.1, LAYERS, dtype=np.float32), case.d // LAYERS)
    common = rng.standard_normal(case.d, dtype=np.float32)
    return [(common + np.float32(0.5) * rng.standard_normal(case.d, dtype=np.float32)) * spread for _ in range(case.n)]


def _theirs(bench: Benchmark, case: Case, vectors: list[Vector]) -> Cost | None:
    try:
        from benchmarks.secagg_plus import run_secagg_plus  # noqa: PLC0415  (needs what Flower may lack)

        found = run_secagg_plus(vectors, Parameters.of(case.n, 65521).U, case.dropping)
    except (ImportError, RuntimeError) as error:
        bench.could_not_run("Flower's SecAgg+", str(error))
        return None
    nmse = _nmse(found.mean, vectors, case)
    cost = Cost(found.client_s, 0.0, found.server_s, found.bytes_up, found.messages, nmse)
    _row(bench, case, "SecAgg+", cost, None)
    return cost


def _ours(bench: Benchmark, case: Case, vectors: list[Vector], theirs: Cost | None) -> dict[int, Cost]:
    group, costs = Group(vectors, case.dropping), {}
    for p in PRIMES:
        found = group.rounds(p, ROUNDS)
        nmse = _nmse(found.sum.mean, vectors, case)
        costs[p] = Cost(found.client_s, found.holder_s, found.server_s, found.bytes_up, 1, nmse)
        _row(bench, case, f"ours, {p}", costs[p], theirs)
    return costs


def _row(bench: Benchmark, case: Case, who: str, cost: Cost, theirs: Cost | None) -> None:
    bench.row(
        n=case.n,
        d=case.d,
        dropping=case.dropping,
        who=who,
        client_ms=1000 * cost.client_s,
        holder_ms=1000 * cost.holder_s,
        server_ms=1000 * cost.server_s,
        mb_up=cost.bytes_up / MB,
        messages=cost.messages,
        nmse=cost.nmse,
        alone_ratio=theirs and theirs.device_s / cost.client_s,
        client_ratio=theirs and theirs.device_s / cost.device_s,
        server_ratio=theirs and theirs.server_s / cost.server_s,
    )


def _nmse(mean: NDArray[np.floating], vectors: list[Vector], case: Case) -> float:
    exact = np.mean(vectors[: case.n - case.dropping], axis=0, dtype=np.float64)
    return float(np.sum(np.square(mean - exact)) / np.sum(np.square(exact)))


if __name__ == "__main__":
    raise SystemExit(main("secure", __doc__, measure))
