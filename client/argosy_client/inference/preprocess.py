"""From what a sensor gives to what a model wants, as its manifest says."""

from __future__ import annotations

import io

import numpy as np

from argosy_client.inference.backend import Array
from argosy_common.artefact import Manifest
from argosy_common.artefact.manifest import Image, Standardise
from argosy_common.errors import InputInvalid

MAX_BATCH = 1024
_PICTURES = (b"\xff\xd8\xff", b"\x89PNG\r\n")


def prepared(manifest: Manifest, raw: Array) -> Array:
    """Return a batch for the model, shape (n, *input.shape), of raw inputs: one, or a batch of them.

    A picture's raw form is height × width × 3 bytes; it is scaled to the input's size.

    Raises:
        InputInvalid: it has another shape, or holds what is not a number.
    """
    wanted = manifest.input
    rule = manifest.preprocessing
    if isinstance(rule, Image):
        return _pictures(manifest, rule, raw)
    shape = tuple(wanted.shape)
    batch = raw[np.newaxis] if raw.shape == shape else raw
    if batch.shape[1:] != shape or batch.ndim != len(shape) + 1:
        raise InputInvalid(model=manifest.reference, why=f"it is {raw.shape}, not {shape} or a batch of such")
    if not 0 < len(batch) <= MAX_BATCH:
        raise InputInvalid(model=manifest.reference, why=f"a batch has 1 to {MAX_BATCH} inputs, not {len(batch)}")
    if batch.dtype != wanted.dtype and not np.can_cast(batch.dtype, wanted.dtype, "same_kind"):
        raise InputInvalid(model=manifest.reference, why=f"it is of {batch.dtype}, not {wanted.dtype}")
    if isinstance(rule, Standardise):
        batch = _standardised(batch, rule.mean, rule.deviation)
    return np.ascontiguousarray(batch, dtype=wanted.dtype)


def picture(manifest: Manifest, data: bytes) -> Array:
    """Return the raw form of a JPEG or PNG.

    Raises:
        InputInvalid: it is neither, cannot be read, or the model takes no pictures.
    """
    if not isinstance(manifest.preprocessing, Image):
        raise InputInvalid(model=manifest.reference, why="it does not take pictures")
    if not data.startswith(_PICTURES):
        raise InputInvalid(model=manifest.reference, why="it is neither JPEG nor PNG")
    try:
        from PIL import Image as Pillow  # noqa: PLC0415  (only where pictures come)

        with Pillow.open(io.BytesIO(data), formats=("JPEG", "PNG")) as opened:
            return np.asarray(opened.convert("RGB"))
    except ImportError:
        raise InputInvalid(model=manifest.reference, why="reading pictures needs the package pillow") from None
    except Exception as error:  # noqa: BLE001  (whatever a decoder makes of hostile bytes)
        raise InputInvalid(model=manifest.reference, why=f"the picture cannot be read: {error}") from None


def _standardised(batch: Array, mean: list[float], deviation: list[float]) -> Array:
    shape = (1, -1, *(1 for _ in batch.shape[2:]))
    middle, width = np.asarray(mean, np.float32).reshape(shape), np.asarray(deviation, np.float32).reshape(shape)
    return np.asarray((batch.astype(np.float32, copy=False) - middle) / width)


def _pictures(manifest: Manifest, rule: Image, raw: Array) -> Array:
    _, height, width = manifest.input.shape
    batch = raw[np.newaxis] if raw.ndim == 3 else raw
    if batch.ndim != 4 or batch.shape[3] != 3 or batch.dtype != np.uint8 or not 0 < len(batch) <= MAX_BATCH:
        raise InputInvalid(model=manifest.reference, why="a picture is height × width × 3 of uint8, or a batch of such")
    if batch.shape[1:3] != (height, width):
        batch = np.stack([_scaled(each, width, height) for each in batch])
    planes = batch.transpose(0, 3, 1, 2).astype(np.float32) / 255.0
    return np.ascontiguousarray(_standardised(planes, rule.mean, rule.deviation), dtype=manifest.input.dtype)


def _scaled(one: Array, width: int, height: int) -> Array:
    from PIL import Image as Pillow  # noqa: PLC0415  (only where pictures come)

    return np.asarray(Pillow.fromarray(one).resize((width, height), Pillow.Resampling.BILINEAR))
