"""`argosy-provision image`: make a flashed card enrol its board, and look over an image that is to be copied."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel, ConfigDict, ValidationError

from argosy_common.enrolment import JoinToken
from argosy_common.enrolment_file import NOTE, EnrolmentFile, first_problem
from argosy_common.errors import GoldenImageUnclean, SettingsInvalid
from argosy_provisioning.card import System, prepare
from argosy_provisioning.golden import LEFTOVERS, left_over

EXAMPLES = """[dim]Examples[/dim]

argosy token create --json | argosy-provision image --for cloud-init /media/me/bootfs --ticket -

argosy-provision image --for raspberry-pi-os /media/me/bootfs --coordinator https://… --pin sha256:… --token …

argosy-provision image --check-golden /mnt/image"""
_OPTIONS = {"url": "--coordinator", "token": "--token", "pin": "--pin", "name": "--name", "site": "--site"}


class Ticket(BaseModel):
    """What `argosy token create --json` prints, as far as it matters here."""

    model_config = ConfigDict(frozen=True)

    url: str
    token: str
    pin: str
    uses: int = 1
    expires_at: str | None = None


def image(  # noqa: PLR0917  (typer declares a command's options as its parameters)
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="BOOT_DIR", exists=True, file_okay=False, help="The card's boot partition, mounted."),
    ] = None,
    system: Annotated[System | None, typer.Option("--for", help="The system on the card.")] = None,
    coordinator: Annotated[str | None, typer.Option(help="The coordinator's enrolment address, https://…")] = None,
    pin: Annotated[str | None, typer.Option(help="The fingerprint of the coordinator's authority, sha256:…")] = None,
    token: Annotated[str | None, typer.Option(help="A join token. Other users of this machine may see it.")] = None,
    ticket: Annotated[
        Path | None,
        typer.Option(
            allow_dash=True,
            help="What `argosy token create --json` printed, or - for stdin; in place of those three.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What people call the board; pi-{serial} for many.")] = None,
    operator_key: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="The operator's public key, for the board to pin.")
    ] = None,
    site: Annotated[str | None, typer.Option(help="Its setting: where in its site it stands.")] = None,
    shard: Annotated[str | None, typer.Option(help="Its setting: which part of the data there it holds.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the enrolment that the card carries.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    check_golden: Annotated[
        Path | None,
        typer.Option(
            metavar="ROOT",
            exists=True,
            file_okay=False,
            help="Only tell what to clear in an image that is to be copied.",
        ),
    ] = None,
) -> None:
    """Make a flashed card enrol its board at the first boot. The card keeps a token until then: use one a board."""
    if check_golden is not None:
        _check_golden(check_golden, as_json=as_json)
        return
    if folder is None or system is None:
        raise typer.BadParameter("name the boot partition and the system on it, with --for")
    given = _ticket(ticket, coordinator, token, pin)
    wanted = _enrolment(given, name=name, operator_key=operator_key, site=site, shard=shard)
    written = prepare(folder, system, wanted, force=force)
    steps = _next_steps(folder, wanted, given)
    if as_json:
        card: dict[str, Any] = {"folder": str(folder), "for": system, "files": [path.name for path in written]}
        card |= {"token_id": JoinToken.parse(given.token).id, "expires_at": given.expires_at, "next": steps}
        typer.echo(json.dumps(card, ensure_ascii=False))
        return
    typer.echo(f"Written to {folder}: {', '.join(path.name for path in written)}.")
    for number, step in enumerate(steps, 1):
        typer.echo(f"{number}. {step}")


def _ticket(file: Path | None, url: str | None, token: str | None, pin: str | None) -> Ticket:
    if file is None:
        if not (url and token and pin):
            raise typer.BadParameter("give --coordinator, --pin and --token, or --ticket")
        return Ticket(url=url, token=token, pin=pin)
    if url or token or pin:
        raise typer.BadParameter("--ticket has the address, the pin and the token in it: give either it or those")
    try:
        return Ticket.model_validate_json(sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsInvalid(name="--ticket", why=error.strerror or error, source="the command") from None
    except ValueError:  # no detail: what was pasted may be a token
        why = "it is not what `argosy token create --json` prints"
        raise SettingsInvalid(name="--ticket", why=why, source="the command") from None


def _enrolment(ticket: Ticket, *, operator_key: Path | None, **fields: str | None) -> EnrolmentFile:
    """Return what the board will read; raises `TokenMalformed`, and `SettingsInvalid` with the option's name."""
    what = {"url": ticket.url.strip(), "token": ticket.token.strip(), "pin": ticket.pin.strip().lower(), **fields}
    if operator_key is not None:
        what["operator_key"] = operator_key.read_text(encoding="ascii", errors="replace")
    try:
        return EnrolmentFile.model_validate(what)
    except ValidationError as error:
        field, _, why = first_problem(error).partition(": ")
        option = _OPTIONS.get(field, f"--{field.replace('_', '-')}")
        raise SettingsInvalid(name=option, why=why, source="the command") from None


def _next_steps(folder: Path, wanted: EnrolmentFile, ticket: Ticket) -> list[str]:
    token = JoinToken.parse(wanted.token).id
    if ticket.expires_at is not None:
        until = f"The token {token} is good until {ticket.expires_at}: boot the board before."
    else:
        until = f"Boot the board soon: `argosy token list` on the coordinator tells how long the token {token} is good."
    if ticket.uses > 1:
        until += f" It lets {ticket.uses} boards in; one use a card would be safer."
    return [
        "The image must have the package argosy-device: this command does not install it.",
        f"Unmount the card before you pull it: umount {folder}",
        until,
        f"The board joins {wanted.url} and erases the file. `argosy device list` shows it within minutes.",
        f"If it does not come, put the card back in here: {NOTE} says why.",
        "To copy the card's image instead: `argosy-provision image --check-golden ROOT` before, this command for each.",
    ]


def _check_golden(root: Path, *, as_json: bool) -> None:
    """Print the checklist; raises `GoldenImageUnclean` if something is left."""
    found = left_over(root)
    if as_json:
        items = [
            {"path": each.pattern, "why": each.why, "clear": each.clear, "left": each in found} for each in LEFTOVERS
        ]
        typer.echo(json.dumps({"root": str(root), "clean": not found, "items": items}, ensure_ascii=False))
    else:
        for each in LEFTOVERS:
            typer.echo(f"✗ {each.pattern}: {each.why}: {each.clear}" if each in found else f"✓ {each.pattern}")
    if found:
        raise GoldenImageUnclean(root=root, found=", ".join(each.pattern for each in found))
