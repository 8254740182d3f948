"""One backend on one version, tried in a process of its own, which may crash, hang or eat memory without harm.

python -m argosy_client.inference.trial BACKEND FOLDER THREADS SECONDS     prints one JSON object, `Figures`
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from argosy_client.inference.backend import Array, Backend, Material, Session, installed
from argosy_client.inference.folder import Version
from argosy_common.artefact.golden import agrees
from argosy_common.logs import get_logger

log = get_logger(__name__)

TIMEOUT_S = 120.0
"""How long a trial may take; making an engine of a large model takes a Jetson a minute."""
LEAST_AGREEMENT = 0.99
"""The share of the board's own inputs to which int8 must give the answer that float gives."""
_WARM = 5
_SLICE_S = 0.02
"""Calls within are timed together: the clock's own cost does not count."""


class WrongAnswers(Exception):
    """A backend that runs, and is wrong."""


@dataclass(frozen=True)
class Figures:
    """What a trial found out. `refused` is why the backend cannot be used; then the rest says nothing."""

    backend: str
    refused: str = ""
    ran_on: str = ""
    p50_ms: float = 0.0
    p95_ms: float = 0.0
    rss_mb: float = 0.0
    agreement: float = 1.0
    measured: bool = True
    """Whether speed was measured, or only whether the answers are right."""


def tried(
    backend: str, version: Version, *, threads: int = 1, seconds: float = 0.3, timeout_s: float = TIMEOUT_S
) -> Figures:
    """Try a backend in a child process; `seconds` of calls are timed, 0: only whether its answers are right."""
    command = [sys.executable, "-m", "argosy_client.inference.trial", backend, str(version.path)]
    try:
        done = subprocess.run(
            [*command, str(threads), str(seconds)], capture_output=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return Figures(backend, refused=f"it had no answer after {timeout_s:g} s")
    try:
        return Figures(**json.loads(done.stdout.splitlines()[-1]))
    except (ValueError, TypeError, IndexError):
        log.warning(
            "trial.died", backend=backend, status=done.returncode, said=done.stderr[-500:].decode(errors="replace")
        )
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"
        return Figures(backend, refused=f"it crashed ({how})")


def try_here(backend: Backend, version: Version, *, threads: int, seconds: float) -> Figures:
    """Try a backend in this process."""
    manifest = version.manifest
    try:
        form = version.form(backend.name)
        material = Material(version.onnx, manifest, version.samples, version.work, threads, form)
        session = backend.open(material)
        agreement = judge(backend, session, version)
        inputs, _ = version.golden
        p50, p95 = _timed(session, inputs[:1], seconds) if seconds else (0.0, 0.0)
        rss = _most_memory_mb()
        return Figures(
            backend.name, "", session.ran_on, p50, p95, rss_mb=rss, agreement=agreement, measured=seconds > 0
        )
    except Exception as error:  # noqa: BLE001  (a backend's word for that it cannot)
        return Figures(backend.name, refused=str(error)[:300] or type(error).__name__)


def judge(backend: Backend, session: Session, version: Version) -> float:
    """See whether a session answers rightly; return its agreement with exact answers on this board's own inputs.

    Raises:
        WrongAnswers: it does not, and how.
    """
    if backend.exact:
        inputs, golden = version.golden
        outputs = session.run(inputs)
        if not agrees(outputs, golden, version.manifest.golden.tolerance):
            raise WrongAnswers(f"its answers to the golden inputs are wrong: {_off(outputs, golden)}")
        return 1.0
    agreement = _agreement(session, version)
    if agreement < LEAST_AGREEMENT:
        raise WrongAnswers(f"it gives the same answer for {agreement:.1%} of this board's inputs")
    return agreement


def _agreement(session: Session, version: Version) -> float:
    """Return the share of the board's inputs for which a session chooses as the exact one does."""
    from argosy_client.inference.backends.onnx_runtime import Fp32  # noqa: PLC0415  (only where it is needed)

    exact = Fp32().open(Material(version.onnx, version.manifest, version.samples, version.work))
    samples = version.samples
    ours, theirs = (np.argmax(each.run(samples).reshape(len(samples), -1), axis=1) for each in (session, exact))
    return float(np.mean(ours == theirs))


def _timed(session: Session, one: Array, seconds: float) -> tuple[float, float]:
    """Return median and 95th percentile of the time for one input, in milliseconds."""
    for _ in range(_WARM):
        session.run(one)
    times: list[float] = []
    ends = time.perf_counter() + seconds
    while (began := time.perf_counter()) < ends or len(times) < _WARM:
        session.run(one)
        times.append(time.perf_counter() - began)
    p50, p95 = np.percentile(np.asarray(times) * 1000.0, [50, 95])
    return float(p50), float(p95)


def _most_memory_mb() -> float:
    """Return the most that this process ever took; `getrusage` would count what its parent had when it was forked."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def _off(outputs: Array, golden: Array) -> str:
    if outputs.shape != golden.shape:
        return f"of shape {outputs.shape}, not {golden.shape}"
    return f"off by {float(np.max(np.abs(outputs.astype(np.float64) - golden.astype(np.float64)))):.3g}"


def main(argv: list[str]) -> int:
    """Be the child process."""
    name, folder, threads, seconds = argv
    backend = installed().get(name)
    if backend is None:
        figures = Figures(name, refused="there is no such backend")
    else:
        figures = try_here(backend, Version.open(Path(folder)), threads=int(threads), seconds=float(seconds))
    sys.stdout.write(json.dumps(asdict(figures)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
