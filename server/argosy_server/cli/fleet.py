"""`argosy fleet`: the operator's signed list of devices, and overrides of what nobody else can decide.

`keygen`, `sign`, `verify` and `override` are for where the operator's key is, and need no coordinator. `draft`,
`install`, `show` and `undecided` are for the coordinator's machine, and never see the key.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import click
import typer
from rich.table import Table
from rich.text import Text

from argosy_common import x509
from argosy_common.blobs.store import storage_errors
from argosy_common.clock import SystemClock
from argosy_common.errors import CertificateInvalid, FleetListOutdated
from argosy_common.files import write_atomic
from argosy_common.secagg import override
from argosy_common.secagg.fleet import FleetList, Member, compose, follow, parse, verify
from argosy_common.secagg.fleet import sign as sign_payload
from argosy_server.cli import words
from argosy_server.cli.client import Data
from argosy_server.cli.options import JsonOption, SocketOption, connect, examples
from argosy_server.cli.terminal import pairs, print_json, say, stderr, stdout, table
from argosy_server.cli.words import clean, count

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Vouch for the devices with a key that the coordinator does not have.",
)

_PUBLIC = 0o644

ListFile = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The signed list.", metavar="LIST")]
KeyOption = Annotated[Path, typer.Option(exists=True, dir_okay=False, help="The operator's private key.")]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", dir_okay=False, help="Where to write it.", show_default="stdout")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
PreviousOption = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="The signed list before it, to see what changes."),
]


# --- where the operator's key is -------------------------------------------------------------------------------------


@app.command("keygen", epilog=examples("argosy fleet keygen operator.key"))
def keygen(
    file: Annotated[
        Path, typer.Argument(help="The private key to be written; the public one goes beside it, as .pub.")
    ],
    json: JsonOption = False,
) -> None:
    """Make the operator's key. Do it off the coordinator: on a laptop, on a stick."""
    public_file = file.with_suffix(".pub")
    if file == public_file:
        raise typer.BadParameter("the private key needs a name that does not end in .pub", param_hint="FILE")
    for path in (file, public_file):
        if path.exists():
            raise typer.BadParameter(f"{path} is there already", param_hint="FILE")
    key = x509.generate_key()
    public = key.public_key()
    with storage_errors(file.parent):
        x509.save_key(file, key)
        write_atomic(public_file, x509.public_pem(public), mode=_PUBLIC)
    if json:
        print_json({"key": str(file), "public": str(public_file), "fingerprint": x509.fingerprint(public).hex()})
    else:
        shown = [("private key", str(file)), ("public key", str(public_file))]
        stdout().print(pairs([*shown, ("fingerprint", x509.short_fingerprint(public))]))
    say(f"Keep {file} off the coordinator, and a copy where it is safe: without it no further list can be signed.")
    say(f"Boards pin the public key when they join: argosy-device join … --operator-key {public_file}")


@app.command(
    "sign",
    epilog=examples(
        "argosy fleet sign fleet.draft.json --key operator.key > fleet.json",
        "argosy fleet sign fleet.draft.json --key operator.key --previous fleet-1.json --output fleet-2.json",
    ),
)
def sign(
    draft: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="What `argosy fleet draft` wrote.", metavar="DRAFT")
    ],
    *,
    key: KeyOption,
    previous: PreviousOption = None,
    output: OutputOption = None,
    yes: YesOption = False,
) -> None:
    """Show what a list changes, and sign it. Needs no coordinator.

    Look at every device that is added: its id must be the one that `argosy-device status` shows on the board itself.
    """
    operator = _private_key(key)
    before = _verified(previous, operator.public_key()) if previous else None
    with storage_errors(draft):
        wanted = parse(draft.read_bytes().strip(), where=str(draft))
    if before is not None:
        _check_follows(before, wanted)
    stderr().print(_changes(before, wanted))
    _ask_to_sign(operator, "Look at the changes, then give --yes.", yes=yes)
    payload = compose(wanted.version, wanted.previous, _now(), wanted.members)
    _hand_out(sign_payload(payload, operator, where=str(draft)), output, "fleet.json")


@app.command(
    "verify",
    epilog=examples(
        "argosy fleet verify fleet.json --operator operator.pub",
        "argosy fleet verify fleet-2.json --operator operator.pub --previous fleet-1.json",
    ),
)
def verify_list(
    file: ListFile,
    *,
    operator: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="The operator's public key.")],
    previous: PreviousOption = None,
) -> None:
    """Check a signed list as a device does. Needs no coordinator; exits with 87 or 88 if it does not hold."""
    public = _public_key(operator)
    found = _verified(file, public)
    told = f"Version {found.version} of {words.local_time(found.created)} with {count(len(found.members), 'device')}"
    stdout().print(f"{told}, signed by the operator's key {x509.short_fingerprint(public)}.")
    if previous is not None:
        before = _verified(previous, public)
        _check_follows(before, found)
        stdout().print(_changes(before, found))


@app.command("override", epilog=examples("argosy fleet override SID --key operator.key > override.json"))
def override_attempt(
    attempt: Annotated[str, typer.Argument(help="The sid, as `argosy fleet undecided` shows it.", metavar="SID")],
    *,
    key: KeyOption,
    output: OutputOption = None,
    yes: YesOption = False,
) -> None:
    """Let devices answer an instruction again whose last attempt nobody can decide. Needs no coordinator.

    The last resort, where a run must go on from just there. One with another configuration needs none.
    """
    try:
        sid = override.parse_sid(attempt)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="SID") from None
    operator = _private_key(key)
    _warn(
        "Nothing shows that this attempt was given up: somebody may know its sum.\n"
        "Once you sign, its devices answer the same instruction again, in whatever set. Who knows both sums knows\n"
        "their difference: the updates of the devices that are in one set only, be it a single one's."
    )
    _ask_to_sign(operator, "Weigh that, then give --yes.", yes=yes)
    _hand_out(override.sign(sid, operator), output, "override.json")


# --- at the coordinator ----------------------------------------------------------------------------------------------


@app.command("draft", epilog=examples("argosy fleet draft > fleet.draft.json"))
def draft_list(socket: SocketOption = None) -> None:
    """Write the next list, not yet signed: the enrolled devices with their identities."""
    with connect(socket) as api:
        data = api.get("/fleet-list")
    current: Data | None = data["list"]
    version, previous = (current["version"] + 1, bytes.fromhex(current["digest"])) if current else (1, None)
    enrolled = [row for row in data["devices"] if row["enrolled"]]
    members = [Member(bytes.fromhex(row["fingerprint"]), row["name"]) for row in enrolled]
    sys.stdout.write(f"{compose(version, previous, _now(), members).decode()}\n")
    say(f"Version {version} with {count(len(members), 'device')}. Sign it where the operator's key is:")
    say("argosy fleet sign fleet.draft.json --key operator.key --output fleet.json")


@app.command("install", epilog=examples("argosy fleet install fleet.json", "argosy fleet install override.json"))
def install(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="What the operator signed.")],
    socket: SocketOption = None,
) -> None:
    """Put a signed list into force, or an override."""
    with storage_errors(file):
        content = file.read_bytes()
    if override.claims_to_be_one(content):
        with connect(socket) as api:
            found = api.put("/fleet-list/override", content)
        devices = count(found["devices"], "device")
        say(f"The attempt {found['sid'][:16]}… counts as given up: the next try at its instruction may be of any set.")
        say(f"Its {devices} check the signature themselves. It is in the audit log.")
        return
    with connect(socket) as api:
        data = api.put("/fleet-list", content)
    current: Data = data["list"]
    say(
        f"Version {current['version']} is in force: {count(len(current['members']), 'device')}, signed by the "
        f"operator's key {current['operator'][:16]}."
    )
    strangers = [member for member in current["members"] if not member["enrolled"]]
    if strangers:
        _warn(f"Listed and not enrolled here: {_names(strangers)}.")
    if left_out := _left_out(data):
        _warn(f"Enrolled and not listed, so refused by their peers: {_names(left_out)}.")


@app.command("show", epilog=examples("argosy fleet show", "argosy fleet show --json | jq '.list.version'"))
def show(socket: SocketOption = None, json: JsonOption = False) -> None:
    """Show the list in force, and which devices are not on it."""
    with connect(socket) as api:
        data = api.get("/fleet-list")
    if json:
        print_json(data)
        return
    current: Data | None = data["list"]
    if current is None:
        stdout().print("No operator's key: coordinator trusted at enrolment.")
        say("To vouch for the devices with a key of your own, start with `argosy fleet keygen`.")
        return
    members: list[Data] = current["members"]
    facts = [
        ("version", str(current["version"])),
        ("signed", words.local_time(current["created"])),
        ("operator", f"key {current['operator'][:16]}"),
        ("devices", str(len(members))),
    ]
    stdout().print(pairs(facts))
    stdout().print()
    stdout().print(_device_table(members, _left_out(data)))


@app.command("undecided", epilog=examples("argosy fleet undecided", "argosy fleet undecided --json"))
def undecided(socket: SocketOption = None, json: JsonOption = False) -> None:
    """Show the attempts at secure rounds of which nothing shows how they ended.

    Devices refuse to answer the instruction of such an attempt again (`secure-retry-refused`), since its sum may be
    known; others they answer as ever. The log of a run that was refused names the attempt. Only the operator's key can
    override that.
    """
    with connect(socket) as api:
        data = api.get("/fleet-list/undecided")
    if json:
        print_json(data)
        return
    attempts: list[Data] = data["attempts"]
    if not attempts:
        stdout().print("Of every secure round it is known how it ended.")
        return
    for row in attempts:
        stdout().print(Text(row["sid"], style="bold"), soft_wrap=True)
        stdout().print(f"  {words.local_time(row['at'])}, {count(row['devices'], 'device')}: {_standing(row)}")
    if data["operator"] is None:
        say("This fleet has no operator's key, so none can be overridden: their instructions stay refused.")
    elif not all(row["overridden"] for row in attempts):
        say("If a run must go on just there, where the operator's key is: argosy fleet override SID --key operator.key")


def _standing(row: Data) -> str:
    if row["overridden"]:
        return "overridden; the next try is yet to come"
    if row["may_be_under_way"]:
        return "perhaps still under way, in a run that is"
    if row["handed_over"]:
        return "a set was handed to its holders, so its sum may be known"
    return "broken off before a set was handed over"


def _device_table(members: list[Data], left_out: list[Data]) -> Table:
    shown = table("device", "id", "")
    for row in sorted(members, key=lambda row: str(row["name"])):
        state = Text("✓ listed", style="green") if row["enrolled"] else Text("○ listed, not enrolled here", style="dim")
        shown.add_row(clean(row["name"]), Text(row["device"], style="dim"), state)
    for row in left_out:
        shown.add_row(clean(row["name"]), Text(row["device"], style="dim"), Text("✗ enrolled, not listed", style="red"))
    return shown


def _left_out(data: Data) -> list[Data]:
    return [row for row in data["devices"] if row["enrolled"] and not row["listed"]]


def _names(rows: list[Data]) -> str:
    return ", ".join(clean(row["name"]) for row in rows)


def _warn(text: str) -> None:
    stderr().print(Text(text, style="yellow"))


# --- files and changes -----------------------------------------------------------------------------------------------


def _now() -> str:
    return SystemClock().wall().strftime("%Y-%m-%dT%H:%M:%SZ")


def _ask_to_sign(key: x509.PrivateKey, otherwise: str, *, yes: bool) -> None:
    """Ask whether to sign what was shown, unless told not to; without a terminal, end with what to do otherwise."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"Nobody is at a terminal to be asked. {otherwise}")
    name = x509.short_fingerprint(key.public_key())
    typer.confirm(f"Sign it with the operator's key {name}?", abort=True, err=True)


def _hand_out(data: bytes, output: Path | None, usual: str) -> None:
    """Write what was signed, and say where it goes."""
    if output is None:
        sys.stdout.write(data.decode())
    else:
        with storage_errors(output, len(data)):
            write_atomic(output, data, mode=_PUBLIC)
    say(f"Signed. Next, at the coordinator: argosy fleet install {output or usual}")


def _private_key(file: Path) -> x509.PrivateKey:
    try:
        return x509.load_key(file)
    except CertificateInvalid as error:
        raise typer.BadParameter(f"{file}: {error.facts['why']}", param_hint="--key") from None


def _public_key(file: Path) -> x509.PublicKey:
    try:
        return x509.load_public_key(file)
    except CertificateInvalid as error:
        raise typer.BadParameter(f"{file}: {error.facts['why']}", param_hint="--operator") from None


def _verified(file: Path, operator: x509.PublicKey) -> FleetList:
    with storage_errors(file):
        return verify(file.read_bytes(), operator, where=str(file))


def _check_follows(before: FleetList, after: FleetList) -> None:
    """Refuse a list that is not the very next one.

    Raises:
        FleetListOutdated: as a device says it, or since a version between the two is missing.
    """
    follow((before.version, before.digest), after)
    if after.version != before.version + 1:
        raise FleetListOutdated(found=after.version, why=f"it does not come right after version {before.version}")


def _changes(before: FleetList | None, after: FleetList) -> Text:
    """Return what a list changes, a device a line; without the list before it, all of its devices."""
    old = {member.fingerprint: member for member in before.members} if before else {}
    new = {member.fingerprint: member for member in after.members}
    added = [member for member in after.members if member.fingerprint not in old]
    removed = [member for member in old.values() if member.fingerprint not in new]
    text = Text(f"Version {after.version}: {count(len(after.members), 'device')}")
    text.append(f", {len(added)} added, {len(removed)} removed" if before else "")
    for mark, style, members in (("+", "green", added), ("-", "red", removed)):
        for member in members:
            text.append(f"\n  {mark} {member.device}  {clean(member.name)}", style=style)
    for member in after.members:
        if (known := old.get(member.fingerprint)) is not None and known.name != member.name:
            text.append(
                f"\n  ~ {member.device}  {clean(known.name)} is now called {clean(member.name)}", style="yellow"
            )
    if before is None and after.version > 1:
        text.append("\nWithout --previous nobody can tell what it changes: all its devices are shown.", style="yellow")
    return text
