"""Golden vectors: a few inputs, and what the model answers to them. A backend that answers otherwise is not used.

The blob is `np.save`'s form of the inputs, then that of the outputs: arrays of shape (count, *shape), without Python
objects. Inputs are what the model gets, after its preprocessing.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from argosy_common.artefact.manifest import Manifest
from argosy_common.errors import ArtefactInvalid

Array = NDArray[np.generic]


def pack_golden(inputs: Array, outputs: Array) -> bytes:
    """Return the blob of inputs and outputs, whose first dimension counts them."""
    stream = io.BytesIO()
    for array in (inputs, outputs):
        np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
    return stream.getvalue()


def unpack_golden(data: bytes, manifest: Manifest) -> tuple[Array, Array]:
    """Return the inputs and outputs that a manifest's blob holds.

    Raises:
        ArtefactInvalid: it does not hold what the manifest says.
    """
    stream = io.BytesIO(data)
    try:
        inputs, outputs = (np.load(stream, allow_pickle=False) for _ in range(2))
    except (ValueError, OSError, EOFError) as error:
        raise ArtefactInvalid(what="golden vectors", why=error) from None
    count = manifest.golden.count
    for array, tensor in ((inputs, manifest.input), (outputs, manifest.output)):
        if array.shape != (count, *tensor.shape) or array.dtype != np.dtype(tensor.dtype):
            wanted = f"{(count, *tensor.shape)} of {tensor.dtype}"
            why = f"{tensor.name} should be {wanted}, not {array.shape} of {array.dtype}"
            raise ArtefactInvalid(what="golden vectors", why=why)
    return inputs, outputs


def agrees(outputs: Array, golden: Array, tolerance: float) -> bool:
    """Tell whether outputs are the golden ones: within `tolerance` of the largest of these, everywhere."""
    if outputs.shape != golden.shape:
        return False
    wanted = golden.astype(np.float64)
    scale = max(float(np.max(np.abs(wanted), initial=0.0)), 1e-12)
    difference = np.abs(outputs.astype(np.float64) - wanted)
    return bool(np.all(difference <= tolerance * scale))  # False where any is NaN
