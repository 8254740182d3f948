"""A model run piece by piece: up to a place where something else goes on, and past its early exits.

At each exit the inputs that it is sure of get its answer and go no further; the rest of the batch goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from argosy_client.inference.backend import Array, Session
from argosy_common.artefact import Manifest
from argosy_common.artefact.cut import Graph, Place
from argosy_common.drift import confidences
from argosy_common.errors import CutImpossible

FINAL = "final"
"""The name of the end, among exits."""


class Piece:
    """A part of a model, open in ONNX Runtime on the CPU."""

    def __init__(self, graph: Graph, start: str, ends: list[str], *, threads: int) -> None:
        """Cut and open it.

        Raises:
            CutImpossible: it cannot be cut so.
        """
        import onnxruntime as ort  # noqa: PLC0415  (only who opens a model needs it)

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        cpu = ["CPUExecutionProvider"]
        self._session: Any = ort.InferenceSession(graph.part(start, ends), options, providers=cpu)
        self._start, self._ends = start, ends
        self.ran_on = ", then ".join(each.removesuffix("ExecutionProvider") for each in self._session.get_providers())

    def run(self, tensor: Array) -> list[Array]:
        """Return the ends, in their order."""
        found: list[Array] = self._session.run(self._ends, {self._start: tensor})
        return found

    def first(self, tensor: Array) -> Array:
        """Return the first end."""
        return self.run(tensor)[0]


@dataclass(frozen=True)
class _Stage:
    """One step of the way: what it runs, and what comes of that."""

    piece: Piece
    exit: str
    """The exit whose answer is its first end; empty: it has none."""
    passes: bool
    """Whether the way goes on from where it was: the exit leaves it there."""


@dataclass
class Progress:
    """How far a batch has come."""

    outputs: Array | None
    """Answers of those that an exit was sure of, shape (n, …); None: of none."""
    left: Array
    """Indices of the others."""
    boundary: Array
    """What goes on, for these."""


class Stages:
    """A model from its input up to a place, past the exits on the way. `counts` is of inputs, by the exit they took."""

    def __init__(self, graph: Graph, manifest: Manifest, upto: Place, *, threads: int, exits: bool = True) -> None:
        """Cut and open it; without `exits`, or where the manifest does not want them, there are none.

        Raises:
            CutImpossible: the exits do not leave the way one after the other.
        """
        self._output = manifest.output
        self._sure = manifest.exit_confidence if exits else None
        self.counts: Counter[str] = Counter()
        self._stages: list[_Stage] = []
        at = graph.input
        names = [each.name for each in manifest.exits] if self._sure is not None else []
        for name, place in zip(names, graph.branches(names, manifest.output.name), strict=True):
            if place.depth > upto.depth:
                break
            passes = place.tensor == at
            piece = Piece(graph, at, [name] if passes else [name, place.tensor], threads=threads)
            self._stages.append(_Stage(piece, name, passes))
            at = place.tensor
        if at != upto.tensor:
            self._stages.append(_Stage(Piece(graph, at, [upto.tensor], threads=threads), "", passes=False))

    @property
    def ran_on(self) -> str:
        """What runs it; empty where there is nothing to run before the place."""
        return self._stages[0].piece.ran_on if self._stages else ""

    def run(self, batch: Array, *, exits: bool = True) -> Progress:
        """Run a batch as far as it has to go; without `exits`, all of it up to the place."""
        outputs: Array | None = None
        left, boundary = np.arange(len(batch)), batch
        for stage in self._stages:
            found = stage.piece.run(boundary)
            boundary = boundary if stage.passes else found[-1]
            if len(boundary) != len(left):
                raise CutImpossible(tensor=stage.exit or "its place", why="its first dimension is not the batch")
            if not stage.exit or not exits or self._sure is None:
                continue
            sure = confidences(found[0]) >= self._sure
            if not sure.any():
                continue
            if outputs is None:
                outputs = np.empty((len(batch), *self._output.shape), self._output.dtype)
            outputs[left[sure]] = found[0][sure]
            self.counts[stage.exit] += int(sure.sum())
            left, boundary = left[~sure], boundary[~sure]
            if not len(left):
                break
        return Progress(outputs, left, boundary)

    def finished(self, progress: Progress, rest: Callable[[Array], Array]) -> Array:
        """Return all answers, `rest` giving those of what goes on."""
        if not len(progress.left) and progress.outputs is not None:
            return progress.outputs
        answers = rest(progress.boundary)
        if self._sure is not None:
            self.counts[FINAL] += len(progress.left)
        if progress.outputs is None:
            return answers
        progress.outputs[progress.left] = answers
        return progress.outputs


class Exiting:
    """A session that stops at the first exit that is sure, all on this board. It owns the whole model's session."""

    def __init__(self, graph: Graph, manifest: Manifest, whole: Session, *, threads: int) -> None:
        """Cut and open it.

        Raises:
            CutImpossible: the exits cannot be used.
        """
        self.away_s = 0.0
        last = graph.branches([manifest.exits[-1].name], manifest.output.name)[0]
        self._stages = Stages(graph, manifest, last, threads=threads)
        self._tail = Piece(graph, last.tensor, [manifest.output.name], threads=threads)
        self._whole = whole

    @property
    def ran_on(self) -> str:
        """See `Session.ran_on`."""
        return self._stages.ran_on

    def run(self, batch: Array) -> Array:
        """See `Session.run`."""
        return self._stages.finished(self._stages.run(batch), self._tail.first)

    def run_by(self, batch: Array, deadline: float) -> Array:  # noqa: ARG002  (of `Placed`)
        """See `Placed.run_by`."""
        return self.run(batch)

    def final(self, batch: Array) -> Array:
        """Return what the end answers, whatever the exits would: what golden answers are compared with."""
        return self._tail.first(self._stages.run(batch, exits=False).boundary)

    def counts(self) -> dict[str, Any]:
        """See `Placed.counts`."""
        return {"exits": dict(self._stages.counts)}

    def close(self) -> None:
        """See `Session.close`."""
        self._whole.close()
