"""Which codecs there are: ours, and those that installed packages declare under the entry point `argosy.codecs`.

An entry point's name is the codec's kind, what stands before the colon; its object is a subclass of `Codec`. Ours stand
under that entry point as well, and in a table here, so that they are found where the metadata of an installation is
older than the code. A foreign package cannot take the place of one of ours, and is imported only when it is asked for.
"""

from __future__ import annotations

import importlib
from importlib.metadata import EntryPoint, entry_points

from argosy_common.codec.base import Codec
from argosy_common.errors import CodecUnknown, CodecUnsuitable

GROUP = "argosy.codecs"

OURS = {
    "none": "argosy_common.codec.none:Fp32",
    "fp16": "argosy_common.codec.fp16:Fp16",
    "bf16": "argosy_common.codec.bf16:Bf16",
    "int8": "argosy_common.codec.int8:Int8",
    "eden": "argosy_common.codec.eden:Eden",
    "topk": "argosy_common.codec.topk:TopK",
    "ring": "argosy_common.codec.ring:Ring",
}
"""Kind → class, as in pyproject.toml."""


def known() -> list[str]:
    """Return how the name of each codec is written, ours first, such as `eden:<bits, 1 to 4>`."""
    ours = [_load(EntryPoint(kind, value, GROUP)) for kind, value in OURS.items()]
    return [codec.form or codec.kind for codec in ours] + sorted(_foreign())


def get_codec(name: str) -> Codec:
    """Return the codec of a name as run configuration gives it, such as `eden:2`.

    Raises:
        CodecUnknown: there is none of that kind, it does not take that parameter, or its package does not work.
    """
    if not isinstance(name, str):
        raise _unknown(name, f"a codec's name is text, not {type(name).__name__}")
    kind, colon, parameter = name.partition(":")
    entry = EntryPoint(kind, OURS[kind], GROUP) if kind in OURS else _foreign().get(kind)
    if entry is None:
        raise _unknown(name, "no package brings one of that name")
    try:
        return _load(entry).parse(parameter if colon else None)
    except ValueError as error:
        raise _unknown(name, str(error)) from None


def get_single_codec(name: str, purpose: str) -> Codec:
    """Return the codec of a name, if what one sender encodes can be decoded by itself.

    Args:
        name: as run configuration gives it.
        purpose: what it is for, for the error: "updates", "the model".

    Raises:
        CodecUnknown: see `get_codec`.
        CodecUnsuitable: only sums of its codes can be decoded.
    """
    codec = get_codec(name)
    if codec.linear:
        why = "its codes only decode in sums; start the run with --secure instead, which uses it by itself"
        raise CodecUnsuitable(codec=codec.name, purpose=purpose, why=why)
    return codec


def _foreign() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP) if entry.name not in OURS}


def _load(entry: EntryPoint) -> type[Codec]:
    """Import the class of an entry point. Raises ValueError, whose text says why it cannot be had."""
    try:
        found = importlib.import_module(entry.module)
        for attribute in entry.attr.split(".") if entry.attr else ():
            found = getattr(found, attribute)
    except (Exception, SystemExit) as error:  # a foreign module may raise anything while it is imported
        raise ValueError(f"its package cannot be loaded: {type(error).__name__}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Codec)):
        raise ValueError(f"its package names {entry.value}, which is no Codec")  # noqa: TRY004  (as all refusals here)
    return found


def _unknown(name: object, why: str) -> CodecUnknown:
    return CodecUnknown(name=str(name), why=why, known=", ".join(known()))
