"""A run as a whole, for `run show`: its facts, its rounds, its devices' errors."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from argosy_server.cli.terminal import pairs
from argosy_server.cli.watch.progress import RunProgress
from argosy_server.cli.watch.rounds import Round
from argosy_server.cli.watch.secure import about, notes
from argosy_server.cli.watch.view import failures_table, head, rounds_table
from argosy_server.cli.words import NONE, clean, codec_text, count, local_time, size, straggler_text, times

Data = Mapping[str, Any]


def run_card(
    row: Data, progress: RunProgress, names: Mapping[str, str], now: datetime, *, width: int = 100
) -> RenderableType:
    """Return everything about a run that a person wants on one page, `width` columns wide."""
    parts: list[RenderableType] = [head(progress, now, width=width)]
    if row["error"]:
        parts += ["", _error(row["error"])]
    parts += ["", _facts(row, progress)]
    if progress.rounds:
        parts += ["", rounds_table(progress, width=width)]
    told = notes(_ordered(progress), names)
    if told:
        parts += ["", Text("about the sums", style="dim"), *told]
    if progress.failures:
        parts += ["", Text("errors on devices", style="dim"), failures_table(progress, names)]
    return Group(*parts)


def _ordered(progress: RunProgress) -> list[Round]:
    return [progress.rounds[key] for key in sorted(progress.rounds)]


def _facts(row: Data, progress: RunProgress) -> Table:
    straggler = (row.get("options") or {}).get("straggler")
    config = "  ".join(f"{clean(key)}={clean(value)}" for key, value in row["config"].items())
    facts: list[tuple[str, Text | str]] = [
        ("server app", clean(row["server_app"])),
        ("client app", clean(row["client_app"])),
        ("bundle", f"{row['app_digest'][:16]}  {size(row['app_size'])}"),
        ("config", config),
        ("codec", _codec(progress)),
        ("secure", about(progress.secure, _ordered(progress))),
        ("stragglers", straggler_text(straggler) if straggler else ""),
        ("blobs came", _ways(progress)),
        ("started", local_time(row["started_at"])),
        ("ended", local_time(row["finished_at"])),
        ("final model", str(row["final_model"] or "")),
    ]
    return pairs([(name, value) for name, value in facts if value and value != NONE])


def _codec(progress: RunProgress) -> str:
    """Say how arrays travel, and whether replies are summed up as they arrive."""
    codec = progress.codec or {}
    arrays = "".join(f"\n{clean(pattern)}: {clean(name)}" for pattern, name in codec.get("arrays", ()))
    told = codec_text(codec)
    if not told:
        return ""
    folded = codec.get("folded")
    summed = "" if folded is None else f"\nreplies: {'summed up as they arrive' if folded else 'single ones'}"
    fewer = [f"{times(ratio)}× {way}" for way, ratio in zip(("up", "down"), progress.ratios(), strict=True) if ratio]
    saved = f"\nfewer bytes than at full precision: {', '.join(fewer)}" if fewer else ""
    return f"{told}{arrays}{saved}{summed}"


def _ways(progress: RunProgress) -> str:
    """Say by which way blobs came down: the large ones of a reply, the others where there was none."""
    return ", ".join(
        f"by {way.upper()}" + (f" ({count(often, 'time')})" if len(progress.ways) > 1 else "")
        for way, often in progress.ways.most_common()
    )


def _error(error: Data) -> Text:
    told = Text.assemble(("✗ ", "red"), (clean(error.get("message", "")), "bold"))
    if error.get("remedy"):
        told.append(f"\n  {clean(error['remedy'])}", style="yellow")
    told.append(f"  [{clean(error.get('code', '?'))}]", style="dim")
    return told
