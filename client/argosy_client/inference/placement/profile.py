"""Measuring the ways that a model can go: on this board, cut at a few places, on the coordinator; by real requests.

What the line gives is measured first, by uploads that are forgotten. A place whose tensor alone would take too long to
send is not tried any further: its row says so, with what is known.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise

import numpy as np

from argosy_client.inference.backend import Array, Session
from argosy_client.inference.folder import Version
from argosy_client.inference.placement.decision import MARGIN, Way
from argosy_client.inference.placement.line import Line, Reply
from argosy_client.inference.placement.stages import FINAL, Exiting, Piece, Stages
from argosy_common.artefact.cut import Graph, Place
from argosy_common.artefact.golden import agrees
from argosy_common.errors import ArgosyError, OffloadUnavailable
from argosy_common.offload import MAX_BODY, PATH, infer_path

CANDIDATES = 8
"""Places that are measured, at most."""
SECONDS = 0.2
"""How long one thing is measured on this board."""
_REQUESTS, _WARM, _TURNS = 7, 3, 2
_FUSED = {"BatchNormalization", "Clip", "HardSwish", "LeakyRelu", "PRelu", "Relu", "Sigmoid", "Tanh"}
_PATIENCE_S = 10.0
"""The longest that one request may take while measuring."""
_UPLOADS = (64 * 1024, 1024 * 1024)
"""Bytes that the line is measured by."""
_TELLING_MS = 50.0
"""An upload that took so long tells enough."""


@dataclass(frozen=True)
class Wire:
    """The line to the coordinator."""

    rtt_ms: float
    uplink: float
    """Bytes a second."""

    def transfer_ms(self, count: int) -> float:
        """Return what sending so many bytes, and a small answer, is expected to take."""
        return self.rtt_ms + count / self.uplink * 1000.0


@dataclass(frozen=True)
class Profile:
    """What was measured."""

    local: Way
    others: list[Way] = field(default_factory=list)
    wire: Wire | None = None
    unreachable: str = ""
    """Why the coordinator was not measured."""
    exits: dict[str, float] = field(default_factory=dict)
    """The share of inputs that took each exit; empty where there are none in force."""
    whole_ms: float = 0.0
    """The whole model here, without any exit."""


def candidates(places: Sequence[Place], most: int = CANDIDATES) -> list[Place]:
    """Return the places that are worth measuring, in the order in which they lie; the input is none of them.

    First those whose tensor is smaller than any before: to cut later at a larger one costs more here and on the way,
    and saves what the coordinator does faster. Then the smallest others. An activation stays with what it follows.
    """
    inner = [place for place in places if place.depth > 0]
    ends = [each for each, after in pairwise([*inner, None]) if each and not (after and _one_step(each, after))]
    least = accumulate((each.size for each in ends), min, initial=MAX_BODY + 1)
    ranked = sorted(
        (each.size >= before, each.size, each.depth, each) for each, before in zip(ends, least, strict=False)
    )
    return sorted((each for *_, each in ranked[:most]), key=lambda place: place.depth)


def _one_step(place: Place, after: Place) -> bool:
    """Tell whether runtimes make both in one step."""
    return after.depth == place.depth + 1 and after.size == place.size and after.made_by in _FUSED


def profile(
    version: Version, whole: Session, line: Line | None, *, whole_ms: float, threads: int, unreachable: str = ""
) -> Profile:
    """Measure a version.

    Args:
        whole: runs it here; `whole_ms` is its median.
        line: to the coordinator; None: there is none, because it is `unreachable`.

    Raises:
        CutImpossible, CutToolsMissing: it cannot be taken apart.
    """
    manifest = version.manifest
    graph = Graph(version.onnx.read_bytes())
    inputs = _inputs(version)
    local = Way("local", head_ms=whole_ms)
    shares: dict[str, float] = {}
    if manifest.exit_confidence is not None:
        mean_ms, shares = _with_exits(Exiting(graph, manifest, whole, threads=threads), inputs)
        local = Way("local", head_ms=mean_ms)
    places = graph.places(manifest.output.name)
    chosen = [place for place in (*candidates(places), places[0]) if place.size <= MAX_BODY]
    wire: Wire | None = None
    if line is not None:
        try:
            wire = measured(line)
        except ArgosyError as error:
            unreachable = error.message.rstrip(".")
    found: list[Way] = []
    for place in chosen:
        way, stages = _here(version, graph, place, inputs, local, threads=threads)
        if line is not None and wire is not None and not way.refused:
            way = _there(version, way, stages, line, wire, local=local)
        found.append(way if wire is not None else replace(way, transfer_ms=None, tail_ms=None))
    return Profile(local, found, wire, unreachable, shares, whole_ms)


def measured(line: Line) -> Wire:
    """Measure a line by requests without a body, and by such that tell: larger ones where small ones take no time.

    Raises:
        ArgosyError: by name, why the coordinator does not answer.
    """
    line.ask(PATH, b"", timeout_s=_PATIENCE_S)  # connects
    rtt_ms = _median([line.ask(PATH, b"", timeout_s=_PATIENCE_S).elapsed_ms for _ in range(_REQUESTS)])
    uplink = 0.0
    for count in _UPLOADS:
        sent = [line.ask(PATH, bytes(count), timeout_s=_PATIENCE_S).elapsed_ms for _ in range(_WARM)]
        more_ms = max(_median(sent) - rtt_ms, 1e-3)
        uplink = count / more_ms * 1000.0
        if more_ms > _TELLING_MS:
            break
    return Wire(rtt_ms, uplink)


def _here(
    version: Version, graph: Graph, place: Place, inputs: Array, local: Way, *, threads: int
) -> tuple[Way, Stages]:
    """Measure what of a way is on this board."""
    manifest = version.manifest
    if place.depth == 0:
        way = Way("remote", place.tensor, 0.0, place.size, None, None, fallback_ms=local.head_ms)
        return way, Stages(graph, manifest, place, threads=threads, exits=False)
    stages = Stages(graph, manifest, place, threads=threads)
    tail = Piece(graph, place.tensor, [manifest.output.name], threads=threads)
    boundary = stages.run(inputs[:1], exits=False).boundary
    if manifest.exit_confidence is None:
        head_ms, share = timed(lambda: stages.run(inputs[:1])), 1.0
    else:
        stages.counts.clear()
        head_ms = _mean_ms(stages.run, inputs)
        share = 1.0 - stages.counts.total() / (_TURNS * len(inputs))
    way = Way("split", place.tensor, head_ms, place.size, None, None, share=share)
    return replace(way, fallback_ms=timed(lambda: tail.run(boundary))), stages


def _there(version: Version, way: Way, stages: Stages, line: Line, wire: Wire, *, local: Way) -> Way:
    """Measure the rest of a way: real tensors, sent, run, answered."""
    guess = wire.transfer_ms(way.bytes_up)
    if way.head_ms + way.share * guess > (local.total_ms or 0.0) * (1.0 - MARGIN):
        return replace(way, transfer_ms=guess, refused="sending it takes too long, whatever the coordinator does")
    manifest, (inputs, golden) = version.manifest, version.golden
    path = infer_path(manifest.name, manifest.version, way.tensor)
    try:
        boundary = stages.run(inputs, exits=False).boundary
        answers = line.run(path, boundary, timeout_s=_PATIENCE_S).array()  # opens it there
        if not agrees(answers, golden, manifest.golden.tolerance):
            return replace(way, refused="the coordinator's answers to the golden inputs are wrong")
        replies = [_asked_once(line, path, boundary[:1]) for _ in range(_WARM + _REQUESTS)][_WARM:]
    except ArgosyError as error:
        return replace(way, transfer_ms=guess, refused=error.message.rstrip("."))
    tail_ms = _median([reply.run_ms for reply in replies])
    return replace(way, transfer_ms=_median([reply.elapsed_ms for reply in replies]) - tail_ms, tail_ms=tail_ms)


def _asked_once(line: Line, path: str, boundary: Array) -> Reply:
    reply = line.run(path, boundary, timeout_s=_PATIENCE_S)
    if len(reply.array()) != len(boundary):
        raise OffloadUnavailable(model="asked for", why="it answers with another number of answers")
    return reply


def _with_exits(session: Exiting, inputs: Array) -> tuple[float, dict[str, float]]:
    """Return the mean time of an input, and which share of them takes each exit."""
    mean_ms = _mean_ms(session.run, inputs)
    counts: dict[str, int] = session.counts()["exits"]
    total = sum(counts.values()) or 1
    return mean_ms, {name: count / total for name, count in sorted(counts.items(), key=lambda item: item[0] == FINAL)}


def _inputs(version: Version) -> Array:
    """Return inputs that this board has seen; the golden ones where there are none."""
    samples = version.samples
    return samples if len(samples) else version.golden[0]


def _mean_ms(run: Callable[[Array], object], inputs: Array) -> float:
    """Return the mean time of each input alone; each is run twice, and the faster time counts."""
    times = []
    for one in range(len(inputs)):
        turns = []
        for _ in range(_TURNS):
            began = time.perf_counter()
            run(inputs[one : one + 1])
            turns.append(time.perf_counter() - began)
        times.append(min(turns))
    return float(np.mean(times)) * 1000.0


def timed(run: Callable[[], object]) -> float:
    """Return the median time of a call, in milliseconds."""
    for _ in range(_WARM):
        run()
    times: list[float] = []
    ends = time.perf_counter() + SECONDS
    while (began := time.perf_counter()) < ends or len(times) < _WARM:
        run()
        times.append((time.perf_counter() - began) * 1000.0)
    return _median(times)


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))
