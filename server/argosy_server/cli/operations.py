"""`argosy audit`, `argosy doctor`, `argosy version`."""

from __future__ import annotations

import platform
from typing import Annotated

import typer
from rich.text import Text

import argosy_common
from argosy_common.errors import CoordinatorUnreachable
from argosy_server.cli import words
from argosy_server.cli.client import Data
from argosy_server.cli.options import JsonOption, SocketOption, connect, examples
from argosy_server.cli.terminal import firm, print_json, say, stdout, table
from argosy_server.cli.words import clean

AUDIT_EXAMPLES = examples("argosy audit", "argosy audit --limit 1000 --json")
DOCTOR_EXAMPLES = examples("argosy doctor", "argosy doctor --json")


def audit(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many entries.")] = 50,
    socket: SocketOption = None,
    json: JsonOption = False,
) -> None:
    """Show who did what: the end of the audit log, the newest last."""
    with connect(socket) as api:
        entries = api.get("/audit", limit=limit)["entries"]
    if json:
        print_json(entries)
        return
    if not entries:
        say("The audit log is empty.")
        return
    shown = table("time", "who", "did", "to", "detail", give="detail")
    for row in entries:
        detail = " ".join(f"{clean(key)}={clean(value)}" for key, value in row["detail"].items())
        when = Text(words.local_time(row["at"]), style="dim")
        shown.add_row(when, clean(row["actor"]), clean(row["action"]), clean(row["subject"]), Text(detail, style="dim"))
    out = stdout()
    out.print(firm(shown, give="detail", width=out.width))  # a long detail must not take who and what away


def doctor(socket: SocketOption = None, json: JsonOption = False) -> None:
    """Check the coordinator and what it depends on. Exits with 1 if a check fails, 16 if no coordinator answers."""
    with connect(socket) as api:
        try:
            answer = {"name": "coordinator", "ok": True, "detail": f"answers on {api.socket}", "remedy": ""}
            checks: list[Data] = [answer, *api.get("/doctor")["checks"]]
        except CoordinatorUnreachable as error:
            failed = {"name": "coordinator", "ok": False, "detail": error.message, "remedy": error.remedy_text}
            print_checks([failed], json=json)
            raise typer.Exit(error.exit_code) from None
    print_checks(checks, json=json)
    if not all(check["ok"] for check in checks):
        raise typer.Exit(1)


def print_checks(checks: list[Data], *, json: bool) -> None:
    """Print checks, with the remedy under each that failed."""
    if json:
        print_json(checks)
        return
    shown = table("", "check", "", give="")
    shown.show_header = False
    for check in checks:
        mark = Text("✓", style="green") if check["ok"] else Text("✗", style="red")
        shown.add_row(mark, clean(check["name"]), _wrapped(check))
    for column in shown.columns:
        column.no_wrap, column.overflow = False, "fold"
    stdout().print(shown)


def _wrapped(check: Data) -> Text:
    text = Text(clean(check["detail"]), style="dim" if check["ok"] else "")
    if not check["ok"] and check["remedy"]:
        text.append(f"\n{clean(check['remedy'])}", style="yellow")
    return text


def version(json: JsonOption = False) -> None:
    """Print the version of Argosy."""
    if json:
        print_json({"argosy": argosy_common.__version__, "python": platform.python_version()})
        return
    stdout().print(f"argosy {argosy_common.__version__} (Python {platform.python_version()})")
