"""Opening a version: choose its backend, open it, see with one's own eyes that it answers rightly, warm it up."""

from __future__ import annotations

from pathlib import Path

from argosy_client.inference.backend import Material, installed
from argosy_client.inference.choose import choose
from argosy_client.inference.folder import Version
from argosy_client.inference.placement.opening import placed
from argosy_client.inference.serving import QUEUE, Loaded
from argosy_common.artefact.golden import agrees
from argosy_common.errors import NoBackend
from argosy_common.logs import get_logger

log = get_logger(__name__)

_WARM = 3


def opened(
    version: Version,
    *,
    threads: int = 1,
    budget_mb: float | None = None,
    queue: int = QUEUE,
    root: Path = Path("/"),
    state_dir: Path | None = None,
) -> Loaded:
    """Return a version, ready to be asked; `state_dir` has this board's enrolment, should a plan send it elsewhere.

    Raises:
        NoBackend: none runs it rightly.
        ArtefactInvalid: its golden vectors cannot be used.
    """
    backends = installed()
    choice = choose(version, threads=threads, budget_mb=budget_mb, root=root, backends=backends)
    manifest, (inputs, golden) = version.manifest, version.golden
    backend = backends[choice.backend]
    session = backend.open(Material(version.onnx, manifest, version.samples, version.work, threads))
    for _ in range(_WARM):
        outputs = session.run(inputs)
    if backend.exact and not agrees(outputs, golden, manifest.golden.tolerance):
        session.close()
        raise NoBackend(model=manifest.reference, why=f"{choice.backend}: right in its trial, and wrong now")
    session = placed(version, session, threads=threads, state_dir=state_dir)
    log.info(
        "model.open",
        model=manifest.reference,
        backend=choice.backend,
        ran_on=session.ran_on,
        p95_ms=round(choice.figures.p95_ms, 3),
        remembered=choice.remembered,
    )
    return Loaded(manifest, session, choice, queue=queue)
