"""An ONNX file on this machine: what ONNX Runtime says of it, whether boards could run it, and its golden vectors.

Only for processes that may die of it: the export's own, and the command line's. The checks, in their order: it is ONNX
and whole in itself; one input whose first dimension is free; inputs, outputs and labels as they were said to be; finite
outputs; and an answer that depends on nothing but its own input.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from argosy_common.artefact.golden import agrees, pack_golden
from argosy_common.artefact.manifest import Blob, Golden, Tensor
from argosy_common.artefact.sketch import Sketch
from argosy_common.drift import LEAST, Drawing
from argosy_common.errors import ArtefactInvalid, ExportToolsMissing, ModelExportFailed, OnnxRefused
from argosy_server.models.draft import Draft
from argosy_server.models.settings import Description, TensorSettings

Array = NDArray[Any]

MOST_GOLDEN = 8
_GOLDEN_BYTES = 1024 * 1024
"""About so many bytes of inputs travel to each board with a model."""
_BATCH = 32
_SEED = 20
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}


def examine(path: Path, described: Description, samples: ArrayLike | None = None) -> tuple[Draft, bytes]:
    """Check the ONNX file at `path`; return its draft and the blob of its golden vectors.

    Args:
        samples: inputs for the golden vectors, (count, *shape); None: random ones, always the same. Of so many that
            drift can be told by them (`argosy_common.drift.LEAST`), a sketch is made.

    Raises:
        OnnxRefused: no board could use it, and why.
        ModelExportFailed: the samples are no inputs of it.
        ExportToolsMissing: ONNX Runtime is not installed.
    """
    model = OnnxModel(path)
    given = _input(model, described.input)
    inputs = _inputs(given, samples)
    name = _output(model, described)
    outputs = model.run(inputs, [name, *described.exits])
    tensors = [
        Tensor(name=each, shape=list(array.shape[1:]), dtype=_dtype_of(array, each))
        for each, array in zip([name, *described.exits], outputs, strict=True)
    ]
    _require_outputs(inputs, outputs, tensors, described)
    _require_independence(model, inputs, outputs[0], name, described.tolerance)
    golden = pack_golden(inputs, outputs[0])
    draft = Draft(
        onnx=_blob(path.read_bytes()),
        golden=Golden(blob=_blob(golden), count=len(inputs), tolerance=described.tolerance),
        input=given,
        output=tensors[0],
        exits=tensors[1:],
        exit_confidence=described.exit_confidence,
        preprocessing=described.preprocessing,
        labels=described.labels,
        backends=described.backends,
        seen=_sketch(model, given, name, samples),
    )
    try:
        draft.manifest("check", 1, at=datetime.now(UTC))
    except ArtefactInvalid as error:
        raise OnnxRefused(why=error.facts["why"]) from None
    return draft, golden


class OnnxModel:
    """An ONNX file in ONNX Runtime, on the CPU and on one thread.

    Raises:
        OnnxRefused: the file cannot be loaded.
        ExportToolsMissing: ONNX Runtime is not installed.
    """

    def __init__(self, path: Path) -> None:
        try:
            import onnxruntime  # noqa: PLC0415  (an extra; where it is missing, that is told by name)
        except ImportError:
            raise ExportToolsMissing(package="onnxruntime") from None
        with path.open("rb") as stream:
            _require_onnx(stream.read(4))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            # by its path: tensors that it keeps in other files are looked for beside it, and are not there
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001  (the runtime raises many kinds at files that it cannot use)
            raise OnnxRefused(why=f"ONNX Runtime cannot load it: {_short(error)}") from None
        self.inputs = self._session.get_inputs()
        self.outputs = self._session.get_outputs()

    def run(self, inputs: Array, names: Sequence[str]) -> list[Array]:
        """Return the outputs of these names, each (count, …).

        Raises:
            OnnxRefused: it cannot be run on them.
        """
        try:
            found: list[Array] = self._session.run(list(names), {self.inputs[0].name: inputs})
        except Exception as error:  # noqa: BLE001  (as above)
            raise OnnxRefused(why=f"it cannot be run on a batch of {len(inputs)}: {_short(error)}") from None
        for name, array in zip(names, found, strict=True):
            if not isinstance(array, np.ndarray) or array.shape[:1] != (len(inputs),):
                raise OnnxRefused(why=f"its output {name} is not one answer for each input of a batch")
        return found


def _require_onnx(head: bytes) -> None:
    if head[:2] == b"PK" or head[:1] == b"\x80":
        raise OnnxRefused(why="it is a pickle or what torch.save writes; only ONNX leaves the coordinator")


def _input(model: OnnxModel, wanted: TensorSettings) -> Tensor:
    if len(model.inputs) != 1:
        raise OnnxRefused(why=f"it has {len(model.inputs)} inputs, and boards give it one")
    found = model.inputs[0]
    dtype = _DTYPES.get(found.type)
    if dtype is None:
        raise OnnxRefused(why=f"its input is a {found.type}, which is none of {', '.join(_DTYPES.values())}")
    batch, *rest = found.shape or [1]
    if isinstance(batch, int):
        raise OnnxRefused(why=f"its input takes batches of {batch} only; export it with a dynamic first dimension")
    if wanted.shape is not None and len(wanted.shape) == len(rest):
        rest = [said if not isinstance(is_, int) else is_ for is_, said in zip(rest, wanted.shape, strict=True)]
    if not all(isinstance(size, int) and size > 0 for size in rest):
        raise OnnxRefused(why=f"its input's shape is {found.shape}; say in the table `input` what it is")
    given = Tensor.model_validate({"name": found.name, "shape": rest, "dtype": dtype})
    _require_as_said(given, wanted, "input")
    return given


def _output(model: OnnxModel, described: Description) -> str:
    """Return the name of the output that is the answer."""
    names = [each.name for each in model.outputs]
    unknown = [each for each in (described.output.name, *described.exits) if each is not None and each not in names]
    if unknown:
        raise OnnxRefused(why=f"it has no output {unknown[0]}; its outputs are {', '.join(names)}")
    left = [each for each in names if each not in described.exits]
    if described.output.name is None and len(left) != 1:
        raise OnnxRefused(why=f"its outputs are {', '.join(names)}; say in `output` which is the answer")
    return described.output.name or left[0]


def _inputs(given: Tensor, samples: ArrayLike | None) -> Array:
    """Return golden inputs: the samples, or random ones."""
    each = math.prod(given.shape) * np.dtype(given.dtype).itemsize
    count = min(MOST_GOLDEN, max(2, _GOLDEN_BYTES // max(each, 1)))
    if samples is not None:
        return _as_inputs(given, samples)[:count]
    rng = np.random.default_rng(_SEED)
    shape = (count, *given.shape)
    if given.dtype in ("uint8", "int8"):
        limits = np.iinfo(given.dtype)
        return rng.integers(limits.min, limits.max, shape, given.dtype, endpoint=True)
    if given.dtype in ("int32", "int64"):
        raise OnnxRefused(why="what whole numbers its input takes cannot be guessed; give `samples`")
    return rng.standard_normal(shape).astype(given.dtype)


def _as_inputs(given: Tensor, samples: ArrayLike) -> Array:
    try:
        inputs = np.asarray(samples)
    except (ValueError, TypeError) as error:
        raise ModelExportFailed(why=f"its samples are not arrays of one shape: {_short(error)}") from None
    if inputs.dtype.kind not in "fiub" or inputs.ndim == 0 or not len(inputs):
        raise ModelExportFailed(why=f"its samples are {inputs.dtype} of shape {inputs.shape}, and no inputs")
    if list(inputs.shape[1:]) != given.shape or not np.all(np.isfinite(inputs)):
        why = f"its samples have the shape {list(inputs.shape)}; they need finite numbers of (count, *{given.shape})"
        raise ModelExportFailed(why=why)
    return inputs.astype(given.dtype)


def _sketch(model: OnnxModel, given: Tensor, name: str, samples: ArrayLike | None) -> Sketch | None:
    """Return what the model sees and says on the samples; None where they are too few to tell drift by."""
    if samples is None or len(inputs := _as_inputs(given, samples)) < LEAST:
        return None
    drawing = Drawing.empty(given.shape[0] if given.shape else 1)
    for at in range(0, len(inputs), _BATCH):
        batch = inputs[at : at + _BATCH]
        drawing.add(batch, model.run(batch, [name])[0])
    return drawing.sketch()


def _dtype_of(array: Array, name: str) -> Any:  # noqa: ANN401  (one of the manifest's dtypes)
    if str(array.dtype) not in _DTYPES.values():
        raise OnnxRefused(why=f"its output {name} is {array.dtype}, which is none of {', '.join(_DTYPES.values())}")
    return str(array.dtype)


def _require_outputs(inputs: Array, outputs: Sequence[Array], tensors: list[Tensor], described: Description) -> None:
    _require_as_said(tensors[0], described.output, "output")
    for array, tensor in zip(outputs, tensors, strict=True):
        if not np.all(np.isfinite(array)):
            raise OnnxRefused(why=f"its output {tensor.name} is not finite on {len(inputs)} inputs")
        if tensor.shape != tensors[0].shape:
            raise OnnxRefused(why=f"its exit {tensor.name} has the shape {tensor.shape}, not that of its output")


def _require_as_said(found: Tensor, said: TensorSettings, what: str) -> None:
    for field in ("name", "shape", "dtype"):
        wanted, is_ = getattr(said, field), getattr(found, field)
        if wanted is not None and wanted != is_:
            raise OnnxRefused(why=f"the {field} of its {what} is {is_}, and the app says {wanted}")


def _require_independence(model: OnnxModel, inputs: Array, outputs: Array, name: str, tolerance: float) -> None:
    """Refuse a model whose answer depends on the rest of its batch, as one with batch statistics does."""
    alone = np.concatenate([model.run(inputs[i : i + 1], [name])[0] for i in range(len(inputs))])
    if not agrees(alone, outputs, tolerance):
        why = "what it answers to an input depends on the others of the batch; export it in evaluation mode"
        raise OnnxRefused(why=why)


def _blob(data: bytes) -> Blob:
    return Blob(digest=hashlib.sha256(data).hexdigest(), size=len(data))


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300].rstrip(".")
