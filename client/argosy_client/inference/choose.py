"""Which backend runs a version: the fastest of those that give right answers, and why the others do not.

Probe → try in a child process → drop what is wrong → lowest p95 within the memory budget → remember, by the model's
structure, the runtimes' versions and the board. New weights of the same structure are only checked for right answers.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType

from argosy_client.inference import trial
from argosy_client.inference.backend import Backend, installed
from argosy_client.inference.folder import Version
from argosy_client.inference.trial import Figures
from argosy_common.artefact import Manifest
from argosy_common.errors import NoBackend
from argosy_common.files import write_atomic
from argosy_common.logs import get_logger

log = get_logger(__name__)

REMEMBERED = "chosen.json"
NEAR, ROUNDS = 3.0, 2
"""Those within so many times the fastest one's time are measured again, so many times."""
_RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "openvino", "ai-edge-litert", "argosy")

Try = Callable[..., Figures]


@dataclass(frozen=True)
class Choice:
    """The backend that was chosen."""

    figures: Figures
    others: list[Figures] = field(default_factory=list)
    """Of those that were tried and are slower, or wrong."""
    unavailable: dict[str, str] = field(default_factory=dict)
    """Why the rest cannot be used, by name."""
    remembered: bool = False

    @property
    def backend(self) -> str:
        """Its name."""
        return self.figures.backend


def choose(
    found: Version,
    *,
    threads: int = 1,
    budget_mb: float | None = None,
    root: Path = Path("/"),
    backends: dict[str, Backend] | None = None,
    avoid: Mapping[str, str] = MappingProxyType({}),
    try_one: Try = trial.tried,
) -> Choice:
    """Choose a backend for a version.

    Args:
        budget_mb: memory that the process may take, measured at its highest.
        root: the file system that is probed for hardware.
        avoid: backends that are not to be used, by name, and why.

    Raises:
        NoBackend: none can be used; the error says why, one by one.
    """
    known = backends if backends is not None else installed()
    allowed, unavailable = _available(found.manifest, known, root, avoid)
    key = _key(found.manifest, allowed, threads, budget_mb)
    memory = found.path.parent / REMEMBERED
    kept = _remembered(memory, key)
    if kept is not None and kept.backend in allowed:
        checked = try_one(kept.backend, found, threads=threads, seconds=0.0)
        if not checked.refused:
            return Choice(kept, unavailable=unavailable, remembered=True)
        log.warning("backend.no_longer_right", backend=kept.backend, why=checked.refused)
    tried = _steadied([try_one(name, found, threads=threads) for name in allowed], found, threads, try_one)
    good = [each for each in tried if not each.refused and (budget_mb is None or each.rss_mb <= budget_mb)]
    if not good:
        why = [f"{each.backend}: {each.refused or f'it takes {each.rss_mb:.0f} MB'}" for each in tried]
        raise NoBackend(
            model=found.manifest.reference, why="; ".join([*why, *(f"{k}: {v}" for k, v in unavailable.items())])
        )
    best = min(good, key=lambda each: (each.p95_ms, each.backend))
    _remember(memory, key, best)
    return Choice(best, [each for each in tried if each is not best], unavailable)


def _steadied(tried: list[Figures], found: Version, threads: int, try_one: Try) -> list[Figures]:
    """Measure those near the fastest again, in turns, and keep the best of each: a board is never quite idle."""
    best = {each.backend: each for each in tried}
    right = [each for each in tried if not each.refused]
    limit = NEAR * min((each.p95_ms for each in right), default=0.0)
    near = [each.backend for each in right if each.p95_ms <= limit]
    for _ in range(ROUNDS if len(near) > 1 else 0):
        for name in near:
            again = try_one(name, found, threads=threads)
            best[name] = again if again.refused else min(best[name], again, key=lambda each: each.p95_ms)
    return [best[each.backend] for each in tried]


def _available(
    manifest: Manifest, known: dict[str, Backend], root: Path, avoid: Mapping[str, str]
) -> tuple[list[str], dict[str, str]]:
    allowed, unavailable = [], {}
    for name, backend in known.items():
        if manifest.backends and name not in manifest.backends:
            unavailable[name] = "the model's manifest does not allow it"
            continue
        if name in avoid:
            unavailable[name] = avoid[name]
            continue
        try:
            why = backend.unavailable(root)
        except Exception as error:  # noqa: BLE001  (a plug-in of anybody's)
            why = f"its probe failed: {error}"
        if why is None:
            allowed.append(name)
        else:
            unavailable[name] = why
    return allowed, unavailable


def _key(manifest: Manifest, allowed: Iterable[str], threads: int, budget_mb: float | None) -> str:
    """Name what the choice depends on. Versions of one structure have the same spec and a file of the same size."""
    spec = manifest.model_dump(mode="json", include={"input", "output", "exits", "backends"})
    runtimes = {name: _version(name) for name in _RUNTIMES}
    facts = [
        spec,
        manifest.onnx.size,
        sorted(manifest.forms),
        runtimes,
        sorted(allowed),
        threads,
        budget_mb,
        platform.machine(),
        _processor(),
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("model name", "Model", "Hardware"))), "")


def _remembered(path: Path, key: str) -> Figures | None:
    try:
        kept = json.loads(path.read_bytes())
        return Figures(**kept["figures"]) if kept["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(path: Path, key: str, figures: Figures) -> None:
    try:
        write_atomic(path, json.dumps({"key": key, "figures": asdict(figures)}).encode())
    except OSError as error:
        log.warning("backend.choice_not_kept", path=path, why=error.strerror)
