"""Where an ONNX file can be cut in two, and its parts.

A *place* is a tensor that everything on the way from the model's input to its answer passes: what runs before it needs
nothing that comes after, and the other way round, so one tensor is all that crosses. Device and coordinator cut the
same signed file at the same place, each for itself, so that no part needs a signature of its own.

Pure: bytes in, bytes out. The package onnx is imported once a file is opened here; daemons need none of this.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from argosy_common.artefact.dtypes import SIZES
from argosy_common.errors import CutImpossible, CutToolsMissing


@dataclass(frozen=True)
class Place:
    """A tensor at which a model can be cut."""

    tensor: str
    shape: tuple[int, ...]
    """Without the batch, which is its first dimension."""
    dtype: str
    depth: int
    """How many operations come before it; 0: it is the model's input."""
    made_by: str = ""
    """The kind of the last of these, by ONNX's name."""

    @property
    def size(self) -> int:
        """Bytes of it for one input."""
        return math.prod(self.shape) * SIZES[self.dtype]


class Graph:
    """An ONNX file, taken apart.

    Raises:
        CutToolsMissing: onnx is not installed.
        CutImpossible: it cannot be read, or has several inputs.
    """

    def __init__(self, model: bytes) -> None:
        try:
            import onnx  # noqa: PLC0415  (an extra; where it is missing, that is told by name)
        except ImportError:
            raise CutToolsMissing(package="onnx") from None
        self._onnx: Any = onnx
        try:
            self._model = onnx.load_from_string(model)
            inferred = onnx.shape_inference.infer_shapes(self._model)
        except Exception as error:  # noqa: BLE001  (whatever the package makes of bytes that it cannot use)
            raise CutImpossible(tensor="any place", why=f"it cannot be read: {error}") from None
        graph = self._model.graph
        self._weights = {each.name for each in graph.initializer} | {
            each.values.name for each in graph.sparse_initializer
        }
        inputs = [each.name for each in graph.input if each.name not in self._weights]
        if len(inputs) != 1:
            raise CutImpossible(tensor="any place", why=f"it has {len(inputs)} inputs")
        self.input: str = inputs[0]
        kinds = [*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input]
        self._kinds: dict[str, Any] = {each.name: each for each in kinds}
        self._nodes = [(node, _needs(node)) for node in graph.node]
        self._fed = self._depending()

    def places(self, output: str) -> list[Place]:
        """Return where the way from the input to `output` can be cut, the input itself first; `output` is none."""
        needed = self._before([output], stop=self.input)
        way = [(node, needs & self._fed) for node, needs in self._nodes if self._made_of(node) & needed & self._fed]
        left = Counter(name for _, needs in way for name in needs)
        left[output] += 1
        alive, found = {self.input}, [self._place(self.input, 0, "")]
        for depth, (node, needs) in enumerate(way, 1):
            left.subtract(needs)
            alive = {name for name in alive | self._made_of(node) if left[name] > 0}
            if len(alive) == 1:
                (name,) = alive
                if name != output and all(each is None or each.tensor != name for each in found):
                    found.append(self._place(name, depth, node.op_type))
        return [each for each in found if each is not None]

    def place(self, tensor: str, output: str) -> Place:
        """Return the place of this name.

        Raises:
            CutImpossible: it is none.
        """
        for each in self.places(output):
            if each.tensor == tensor:
                return each
        raise CutImpossible(tensor=tensor[:100], why="it is no tensor that all of the way to the answer passes")

    def branches(self, exits: Sequence[str], output: str) -> list[Place]:
        """Return, for each exit, the last place on the way to `output` that its own way passes too.

        Raises:
            CutImpossible: one leaves the way earlier than the one before it.
        """
        trunk = {each.tensor: each for each in self.places(output)}
        found: list[Place] = []
        for name in exits:
            common = [trunk[each.tensor] for each in self.places(name) if each.tensor in trunk]
            if not common:
                raise CutImpossible(tensor=name, why="the exit shares no place with the way to the answer")
            found.append(max(common, key=lambda each: each.depth))
        if any(later.depth < sooner.depth for sooner, later in itertools.pairwise(found)):
            raise CutImpossible(tensor=exits[0], why="the exits are not in the order in which they leave the way")
        return found

    def part(self, start: str, ends: Sequence[str]) -> bytes:
        """Return the part of the model that makes `ends` of `start`, as an ONNX file.

        Raises:
            CutImpossible: it needs more than `start`, or a tensor is not known.
        """
        for name in (start, *ends):
            if name not in self._kinds:
                raise CutImpossible(tensor=name[:100], why="nothing is known of such a tensor")
        names = self._before(ends, stop=start)
        if self.input in names and start != self.input:
            raise CutImpossible(tensor=start[:100], why=f"{', '.join(ends)} needs more than it")
        whole = self._model.graph
        part = self._onnx.helper.make_graph(
            [node for node, _ in self._nodes if self._made_of(node) & names],
            whole.name,
            [self._kinds[start]],
            [self._kinds[name] for name in ends],
            [each for each in whole.initializer if each.name in names],
            sparse_initializer=[each for each in whole.sparse_initializer if each.values.name in names],
        )
        made = self._onnx.helper.make_model(
            part,
            ir_version=self._model.ir_version,
            opset_imports=list(self._model.opset_import),
            functions=list(self._model.functions),
        )
        data: bytes = made.SerializeToString()
        return data

    def _before(self, ends: Iterable[str], *, stop: str) -> set[str]:
        """Return all tensors that `ends` are made of, with themselves, going back no further than `stop`."""
        wanted = set(ends)
        for node, needs in reversed(self._nodes):
            if (self._made_of(node) - {stop}) & wanted:
                wanted |= needs
        return wanted - {stop} if stop != self.input else wanted

    def _depending(self) -> set[str]:
        """Return the tensors that depend on the input; the rest is the same for each."""
        fed = {self.input}
        for node, needs in self._nodes:
            if needs & fed:
                fed |= self._made_of(node)
        return fed

    @staticmethod
    def _made_of(node: Any) -> set[str]:  # noqa: ANN401  (of onnx, which has no types of use)
        return {name for name in node.output if name}

    def _place(self, name: str, depth: int, made_by: str) -> Place | None:
        """Return a tensor as a place; None where its shape is not known, or its first dimension is no batch."""
        kind = self._kinds.get(name)
        if kind is None or not kind.type.HasField("tensor_type") or not kind.type.tensor_type.HasField("shape"):
            return None
        dims = kind.type.tensor_type.shape.dim
        try:
            dtype = str(self._onnx.helper.tensor_dtype_to_np_dtype(kind.type.tensor_type.elem_type))
        except (KeyError, TypeError):
            return None
        if dtype not in SIZES or not dims or dims[0].HasField("dim_value"):
            return None
        if not all(dim.HasField("dim_value") and dim.dim_value > 0 for dim in dims[1:]):
            return None
        return Place(name, tuple(dim.dim_value for dim in dims[1:]), dtype, depth, made_by)


def _needs(node: Any) -> set[str]:  # noqa: ANN401  (of onnx)
    """Return the tensors that an operation takes, those that its inner graphs take from outside included."""
    wanted = {name for name in node.input if name}
    for attribute in node.attribute:
        for graph in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
            own = {each.name for each in (*graph.input, *graph.initializer)}
            inner: set[str] = {each.name for each in graph.output}
            for each in graph.node:
                inner |= _needs(each)
                own |= {name for name in each.output if name}
            wanted |= inner - own
    return wanted
