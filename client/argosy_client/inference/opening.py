"""Opening a version: choose its backend, open it, see with one's own eyes that it answers rightly, warm it up.

A backend that cannot be opened here, after a good trial, gives way to the next best.
"""

from __future__ import annotations

from pathlib import Path

from argosy_client.inference import openings
from argosy_client.inference.backend import Backend, Material, Session, installed
from argosy_client.inference.choose import choose
from argosy_client.inference.folder import Version
from argosy_client.inference.placement.opening import placed
from argosy_client.inference.serving import QUEUE, Loaded
from argosy_client.inference.trial import judge
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
    avoid = openings.fatal(version.work)
    while True:
        choice = choose(version, threads=threads, budget_mb=budget_mb, root=root, backends=backends, avoid=avoid)
        try:
            with openings.begun(version.work, choice.backend):
                session = _session(backends[choice.backend], version, threads)
        except Exception as error:  # noqa: BLE001  (a backend's word for that it cannot: the next best may)
            log.warning("backend.not_opened", model=version.manifest.reference, backend=choice.backend, exc=error)
            avoid = {**avoid, choice.backend: f"right in its trial, and then: {error}"[:300]}
            continue
        session = placed(version, session, threads=threads, state_dir=state_dir)
        log.info(
            "model.open",
            model=version.manifest.reference,
            backend=choice.backend,
            ran_on=session.ran_on,
            p95_ms=round(choice.figures.p95_ms, 3),
            remembered=choice.remembered,
        )
        return Loaded(version.manifest, session, choice, queue=queue)


def _session(backend: Backend, version: Version, threads: int) -> Session:
    """Open, check again and warm up: what was right in its trial may be wrong in this process.

    Raises:
        WrongAnswers: it gives other answers now.
        Exception: whatever the backend raises.
    """
    form = version.form(backend.name)
    session = backend.open(Material(version.onnx, version.manifest, version.samples, version.work, threads, form))
    try:
        judge(backend, session, version)
        inputs, _ = version.golden
        for _ in range(_WARM):
            session.run(inputs)
    except BaseException:
        session.close()
        raise
    return session
