"""Putting a plan into practice: from the session that runs a version here to the one that obeys the plan."""

from __future__ import annotations

import random
from pathlib import Path

from argosy_client.inference import openings
from argosy_client.inference.backend import Session
from argosy_client.inference.folder import Version
from argosy_client.inference.placement.line import Line, to_coordinator
from argosy_client.inference.placement.offload import Offloaded
from argosy_client.inference.placement.plan import Plan, read_plan
from argosy_client.inference.placement.stages import Exiting, Piece, Stages
from argosy_common.artefact.cut import Graph
from argosy_common.artefact.golden import agrees
from argosy_common.errors import ArgosyError, CutImpossible, OffloadRefused
from argosy_common.logs import get_logger

log = get_logger(__name__)

_OPENING = "in parts"
"""The name under which openings are noted, among those of backends."""


def placed(
    version: Version,
    whole: Session,
    *,
    threads: int = 1,
    state_dir: Path | None = None,
    rng: random.Random | None = None,
) -> Session:
    """Return the session that answers for a version: `whole`, or one around it that stops early or asks elsewhere.

    Whatever is in the way of that is told, and `whole` answers.

    Args:
        state_dir: where this board's enrolment is; None: the coordinator is not asked.
    """
    plan = read_plan(version)
    away = plan if plan is not None and plan.way != "local" else None
    early = version.manifest.exit_confidence is not None
    if away is None and not early:
        return whole
    session = whole
    try:
        if why := openings.fatal(version.work).get(_OPENING):
            raise CutImpossible(tensor="any place", why=why)
        with openings.begun(version.work, _OPENING):
            graph = Graph(version.onnx.read_bytes())
            if early:
                session = exiting(version, whole, graph, threads=threads)
            if away is not None:
                line = Line(to_coordinator(_required(state_dir)))
                rng = rng or random.SystemRandom()
                session = offloaded(version, away, session, graph, line, threads=threads, rng=rng)
    except (ArgosyError, OSError) as error:
        told = error.message if isinstance(error, ArgosyError) else str(error)
        log.warning("placement.not_used", model=version.manifest.reference, why=told)
    return session


def exiting(version: Version, whole: Session, graph: Graph, *, threads: int) -> Exiting:
    """Return a session that stops at exits.

    Raises:
        CutImpossible: they cannot be used, or what follows them is wrong.
    """
    manifest, (inputs, golden) = version.manifest, version.golden
    session = Exiting(graph, manifest, whole, threads=threads)
    if not agrees(session.final(inputs), golden, manifest.golden.tolerance):
        raise CutImpossible(tensor=manifest.exits[-1].name, why="its parts give other answers than the whole")
    return session


def offloaded(
    version: Version, plan: Plan, whole: Session, graph: Graph, line: Line, *, threads: int, rng: random.Random
) -> Offloaded:
    """Return a session whose rest the coordinator runs, started.

    Raises:
        CutImpossible: it cannot be cut where the plan says.
    """
    output = version.manifest.output.name
    place = graph.place(plan.tensor, output)
    stages = Stages(graph, version.manifest, place, threads=threads, exits=plan.way == "split")
    rest = whole.run if plan.way == "remote" else Piece(graph, place.tensor, [output], threads=threads).first

    session = Offloaded(version, plan, whole=whole, stages=stages, tail=rest, line=line, rng=rng)
    session.start()
    return session


def _required(state_dir: Path | None) -> Path:
    if state_dir is None:
        raise OffloadRefused(why="this board's enrolment was not given to what runs models")
    return state_dir
