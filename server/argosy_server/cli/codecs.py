"""`--codec`, `--codec-down`, `--codec-arrays`, as `argosy run start` takes them: judged before anything is sent."""

from __future__ import annotations

from typing import Annotated

import typer

from argosy_common.run_settings import EXACT, NONE, CodecSettings
from argosy_server.cli.client import Data

OFFERED = {
    "none": "full precision",
    "fp16": "16 bits a value",
    "bf16": "16 bits a value",
    "int8": "8 bits a value",
    "eden:4": "4 bits a value",
    "eden:3": "3 bits a value",
    "eden:2": "2 bits a value; a good first choice for updates",
    "eden:1": "1 bit a value",
    "topk:0.01": "the largest hundredth; the rest is sent later",
}


def complete_codecs(incomplete: str) -> list[tuple[str, str]]:
    """Offer the codecs that come with Argosy."""
    return [(name, about) for name, about in OFFERED.items() if name.startswith(incomplete)]


CodecOption = Annotated[
    str | None,
    typer.Option(
        "--codec",
        metavar="CODEC",
        autocompletion=complete_codecs,
        help="How devices' updates travel: none, fp16, bf16, int8, eden:1 … eden:4, topk:0.01.",
        show_default="the app's, else none",
    ),
]
CodecDownOption = Annotated[
    str | None,
    typer.Option(
        "--codec-down",
        metavar="CODEC",
        autocompletion=complete_codecs,
        help="How the model travels to the devices.",
        show_default="the app's, else none",
    ),
]
CodecArraysOption = Annotated[
    list[str] | None,
    typer.Option(
        "--codec-arrays",
        metavar="PATTERN=CODEC",
        help="Another codec for arrays of such names, or 'exact'; repeat it, the first that fits counts.",
    ),
]


def codec_request(
    table: Data, *, up: str | None, down: str | None, arrays: list[str]
) -> dict[str, str | list[list[str]] | None]:
    """Return what the admin API is to be told; `table` is the app's `[tool.argosy]`, which the flags override.

    Raises:
        typer.BadParameter: a pattern without a codec.
        RunConfigInvalid: the app's table is not well formed.
        CodecUnknown: there is no such codec.
        CodecUnsuitable: there is, but not for this.
    """
    pairs = [_pair(text) for text in arrays]
    settings = CodecSettings.from_table(table).overridden(up=up, down=down, arrays=pairs)
    require_usable(settings)
    return {"up": up, "down": down, "arrays": [list(pair) for pair in pairs]}


def _pair(text: str) -> tuple[str, str]:
    pattern, equals, codec = (part.strip() for part in text.rpartition("="))
    if not (pattern and equals and codec):
        raise typer.BadParameter(
            f"write it as PATTERN=CODEC, such as 'embedding.*=fp16', not {text!r}", param_hint="--codec-arrays"
        )
    return pattern, codec


def require_usable(settings: CodecSettings) -> None:
    """Look every codec up. Raises `CodecUnknown`, `CodecUnsuitable`."""
    uses = [(settings.up, "updates"), (settings.down, "the model")]
    uses += [(codec, f"the arrays '{pattern}'") for pattern, codec in settings.arrays]
    named = [(name, purpose) for name, purpose in uses if name not in {NONE, EXACT}]
    if not named:
        return
    from argosy_common.codec.registry import get_single_codec  # noqa: PLC0415  (numpy; no other command needs it)

    for name, purpose in named:
        get_single_codec(name, purpose)
