"""`argosy model`: versions of models, and how they come to the boards."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Group
from rich.text import Text

from argosy_common.artefact import FILES
from argosy_common.blobs.store import storage_errors
from argosy_common.errors import ArgosyError
from argosy_common.files import private_folder
from argosy_server.cli import words
from argosy_server.cli.client import AdminClient, Data
from argosy_server.cli.options import JsonOption, SocketOption, connect, examples
from argosy_server.cli.rollout import add_rollout_verbs
from argosy_server.cli.terminal import pairs, print_json, say, stdout, table

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="rich", help="Look at models, and roll them out to the boards, and back."
)


def _known(incomplete: str) -> list[str]:
    """Complete a version's name."""
    try:
        with connect(None) as api:
            return [row["model"] for row in api.get("models")["models"] if row["model"].startswith(incomplete)]
    except ArgosyError:
        return []


Reference = Annotated[
    str, typer.Argument(help="NAME:VERSION, or NAME for its newest.", metavar="MODEL", autocompletion=_known)
]


@app.command("list", epilog=examples("argosy model list", "argosy model list --json | jq '.models[].model'"))
def list_models(socket: SocketOption = None, json: JsonOption = False) -> None:
    """List all versions of all models, the newest of each first."""
    with connect(socket) as api:
        found = api.get("models")
    if json:
        print_json(found)
        return
    if not found["models"]:
        say("There is no model yet. An app that says how in [tool.argosy.model] exports one at the end of a run.")
        return
    columns = ("model", "run", "round", "metrics", "size", "secure", "made", "")
    shown = table(*columns, right=("run", "round", "size"), give="metrics")
    for row in found["models"]:
        promoted = Text("promoted", style="green") if row["promoted_at"] else Text("")
        shown.add_row(*_cells(row), promoted)
    stdout().print(shown)


@app.command("show", epilog=examples("argosy model show har", "argosy model show har:3 --json"))
def show(model: Reference, socket: SocketOption = None, json: JsonOption = False) -> None:
    """Show where a version comes from, what it takes and gives, and who signed it."""
    with connect(socket) as api:
        row = api.get(f"models/{quote(model, safe='')}")
    if json:
        print_json(row)
        return
    manifest, signed = row["manifest"], row["signature"]
    facts = [
        ("model", row["model"]),
        ("parent", f"{row['name']}:{row['parent']}" if row["parent"] else "–"),
        ("run", f"{row['run']}, round {row['round']}" if row["run"] else "–"),
        ("metrics", _metrics(row["metrics"])),
        ("codec", row["codec"] or "–"),
        ("secure", "yes" if row["secure"] else "no"),
        ("made", words.local_time(row["created_at"])),
        ("promoted", words.local_time(row["promoted_at"]) if row["promoted_at"] else "no"),
        ("input", _tensor(manifest["input"])),
        ("output", _tensor(manifest["output"])),
        ("labels", ", ".join(manifest["labels"]) or "–"),
        ("preparing", (manifest["preprocessing"] or {}).get("kind", "–")),
        ("golden", f"{manifest['golden']['count']} inputs, within {manifest['golden']['tolerance']:g}"),
        ("size", words.size(row["onnx"]["size"])),
        ("sha-256", row["onnx"]["digest"]),
    ]
    by = f"{signed['by']}, until {signed['until'][:10]}"
    fault = Text(f"does not hold: {signed['fault']}", style="red") if signed["fault"] else Text(by)
    stdout().print(pairs([*facts, ("signature", fault)]))


@app.command("export", epilog=examples("argosy model export har:3 --output ./har-3"))
def export(
    model: Reference,
    output: Annotated[Path, typer.Option("--output", "-o", file_okay=False, help="A folder, which is made.")],
    socket: SocketOption = None,
    json: JsonOption = False,
) -> None:
    """Write a version's artefact into a folder: manifest, signature, ONNX file, golden vectors."""
    with connect(socket) as api:
        row = api.get(f"models/{quote(model, safe='')}")
        _download(api, row["model"], output)
    if json:
        print_json({"model": row["model"], "folder": str(output), "files": sorted(FILES.values())})
    else:
        say(f"{row['model']} is in {output}: {', '.join(sorted(FILES.values()))}.")


@app.command("promote", epilog=examples("argosy model promote har:3"))
def promote(model: Reference, socket: SocketOption = None, json: JsonOption = False) -> None:
    """Mark a version as the one of its name that is meant for boards."""
    with connect(socket) as api:
        row = api.post(f"models/{quote(model, safe='')}/promote")
    if json:
        print_json(row)
    else:
        say(f"{row['model']} is promoted. `argosy model rollout {row['model']}` brings it to the boards.")


@app.command("diff", epilog=examples("argosy model diff har:2 har:3", "argosy model diff har:2 har --json"))
def diff(old: Reference, new: Reference, socket: SocketOption = None, json: JsonOption = False) -> None:
    """Compare two versions: metrics, form, weights, and their answers to the golden inputs."""
    from argosy_server.models.comparison import compared  # noqa: PLC0415  (brings numpy)

    with tempfile.TemporaryDirectory(prefix="argosy-diff-") as folder, connect(socket) as api:
        folders = Path(folder) / "old", Path(folder) / "new"
        for reference, each in zip((old, new), folders, strict=True):
            _download(api, reference, each)
        found = compared(*folders)
    if json:
        print_json(found)
        return
    stdout().print(_differences(found))
    if found["left_out"]:
        say(f"Weights and answers were not compared. {found['left_out']}")


def _download(api: AdminClient, reference: str, folder: Path) -> None:
    with storage_errors(folder):
        private_folder(folder)
    for part, file in FILES.items():
        api.download(f"models/{quote(reference, safe='')}/parts/{part}", folder / file)


def _differences(found: Data) -> Group:
    old, new = found["models"]
    facts = table("", old, new)
    for name, (was, now) in found["metrics"].items():
        facts.add_row(name, *("–" if value is None else f"{value:.4g}" for value in (was, now)))
    facts.add_row("size", *(words.size(size) for size in found["bytes"]))
    for name, (was, now) in found["changed"].items():
        facts.add_row(name, str(was)[:60], str(now)[:60])
    if found["answers"]:
        answers = found["answers"]
        same = f"{answers['same_choice']:.0%} of {answers['inputs']} alike"
        facts.add_row("golden inputs", "", f"{same}, off by {answers['largest_difference']:.3g} at most")
    parts: list[Any] = [facts]
    if found["weights"]:
        weights = table("weights", "shape", "moved", right=("moved",))
        for row in found["weights"][:20]:
            moved = "other shape" if row["moved"] is None else f"{row['moved']:.2%}"
            weights.add_row(row["name"], "×".join(map(str, row["shape"])), moved)
        parts += [Text(""), weights]
    return Group(*parts)


def _cells(row: Data) -> list[str]:
    run = "–" if row["run"] is None else str(row["run"])
    number = "–" if row["round"] is None else str(row["round"])
    secure, made = "yes" if row["secure"] else "", words.local_time(row["created_at"])
    return [row["model"], run, number, _metrics(row["metrics"]), words.size(row["onnx"]["size"]), secure, made]


def _metrics(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in list(metrics.items())[:3]) or "–"


def _tensor(tensor: Data) -> str:
    return f"{tensor['name']}: {tensor['dtype']}, n × {' × '.join(map(str, tensor['shape'])) or '1'}"


add_rollout_verbs(app)
