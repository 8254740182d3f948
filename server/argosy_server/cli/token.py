"""`argosy token`: leave for new devices to join."""

from __future__ import annotations

import re
import shlex
from typing import Annotated
from urllib.parse import quote

import typer
from rich.text import Text

from argosy_common.clock import SystemClock
from argosy_server.cli.options import JsonOption, SocketOption, connect, examples
from argosy_server.cli.terminal import print_json, say, stdout, table
from argosy_server.cli.words import age, clean, parse_time

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Make and list join tokens.")

_TTL = re.compile(r"^(\d{1,7})([smhd])$")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_ttl(text: str | int) -> int:
    """Return the seconds of `90s`, `30m`, `1h` or `7d`."""
    match = _TTL.match(str(text))
    if match is None:
        raise typer.BadParameter("write it as 90s, 30m, 1h or 7d")
    return int(match[1]) * _UNIT_S[match[2]]


@app.command(
    "create",
    epilog=examples(
        "argosy token create",
        "argosy token create --uses 20 --ttl 1d --tag north",
        "argosy token create --site lab --tag camera --no-approve",
        "argosy token create --json | jq -r .command",
    ),
)
def create(
    *,
    uses: Annotated[int, typer.Option(min=1, max=100_000, help="How many devices may join with it.")] = 1,
    ttl: Annotated[
        int, typer.Option(parser=parse_ttl, metavar="TIME", help="How long it is good for: 90s, 30m, 1h, 7d.")
    ] = "1h",  # type: ignore[assignment]  # the parser makes it the int
    site: Annotated[
        str | None, typer.Option(help="The site its devices belong to.", show_default="the coordinator's")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag for its devices; repeat it.")] = None,
    approve: Annotated[
        bool, typer.Option("--approve/--no-approve", help="Let its devices in, or decide on each of them.")
    ] = True,
    socket: SocketOption = None,
    json: JsonOption = False,
) -> None:
    """Make a join token and print the line to run on the device. It is shown once."""
    body = {"uses": uses, "ttl_s": ttl, "site": site, "tags": tag or [], "approve": approve}
    with connect(socket) as api:
        made = api.post("/tokens", body)
    words = ["argosy-device", "join", made["url"], "--token", made["token"], "--pin", made["pin"]]
    command = shlex.join(words)
    if json:
        print_json({**made, "command": command})
        return
    stdout().print(Text(command), soft_wrap=True)
    devices = "one device" if uses == 1 else f"{uses} devices"
    say(f"Run it on the device. Good for {devices}, until {_until(made)}. The token is not shown again.")
    if not approve:
        say("Then let each device in with `argosy device approve`; until then it waits, and gets nothing.")


@app.command("list", epilog=examples("argosy token list", "argosy token list --json"))
def list_tokens(socket: SocketOption = None, json: JsonOption = False) -> None:
    """List the join tokens, without their secrets."""
    with connect(socket) as api:
        data = api.get("/tokens")
    if json:
        print_json(data["tokens"])
        return
    if not data["tokens"]:
        say("There are no tokens. Make one with `argosy token create`.")
        return
    now = SystemClock().wall()
    shown = table("token", "site", "used", "expires", "tags", right=["used"], give="tags")
    for row in data["tokens"]:
        ends = parse_time(row["expires_at"])
        spent = row["used"] >= row["uses"] or (ends is not None and ends <= now)
        tags = " ".join(clean(tag) for tag in [*row["tags"], *([] if row["approve"] else ["(to be approved)"])])
        ends_text = age(row["expires_at"], now)
        cells = [row["id"], row["site"], f"{row['used']}/{row['uses']}", ends_text, tags]
        shown.add_row(*cells, style="dim" if spent else None)
    stdout().print(shown)


@app.command("revoke", epilog=examples("argosy token revoke 3fa94c21"))
def revoke(
    token: Annotated[str, typer.Argument(help="The token's id: its part before the dot.")], socket: SocketOption = None
) -> None:
    """End a token's time now. Devices that joined with it stay."""
    with connect(socket) as api:
        row = api.post(f"/tokens/{quote(token.partition('.')[0], safe='')}/revoke")
    say(f"Nobody can join with the token {row['token']} any more.")


def _until(made: dict[str, object]) -> str:
    ends = parse_time(made["expires_at"])
    return ends.astimezone().strftime("%H:%M on %d %B") if ends else "it is used"
