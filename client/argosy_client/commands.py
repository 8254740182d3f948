"""The commands of `argosy-device` that a person or a unit waits for; `run` is listed here for its help."""

from __future__ import annotations

import json
import random
import shlex
import signal
import sqlite3
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from argosy_client.daemon import JOURNAL, STATUS
from argosy_client.daemon import main as run_daemon
from argosy_client.identity import Enrolment
from argosy_client.inference import commands as inference
from argosy_client.inference.placement import command as placement
from argosy_client.instance import running_pid
from argosy_client.settings import DeviceSettings, load_settings, remember_name, shown_name
from argosy_common import __version__, x509
from argosy_common.backoff import Backoff
from argosy_common.blobs.store import storage_errors
from argosy_common.clock import SystemClock
from argosy_common.errors import ArgosyError, CertificateInvalid, NotEnrolled
from argosy_common.files import give_to_owner
from argosy_common.logs import configure as configure_logs

app = typer.Typer(
    name="argosy-device",
    help="Let this board take part in federated learning.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Config = Annotated[
    Path | None,
    typer.Option("--config", envvar="ARGOSY_DEVICE_CONFIG", help="Settings file; /etc/argosy/device.toml if absent."),
]


def examples(*lines: str) -> str:
    """Return an epilog that shows how a command is used."""
    return "\n\n".join(["[dim]Examples[/dim]", *lines])


StateDir = Annotated[Path | None, typer.Option("--state-dir", help="Where this device keeps its keys and its work.")]


@app.command(
    epilog=examples(
        "argosy-device join https://10.0.0.5:8444 --token 65a67278.f845… --pin sha256:c7a2…",
        "argosy-device join https://coordinator:8444 --token … --pin … --name kitchen",
        "argosy-device join https://coordinator:8444 --token … --pin … --operator-key operator.pub",
    )
)
def join(  # noqa: PLR0917  (typer declares a command's options as its parameters)
    url: Annotated[str, typer.Argument(help="The coordinator's enrolment address, https://…")],
    token: Annotated[str, typer.Option(help="The join token that `argosy token create` printed.")],
    pin: Annotated[str, typer.Option(help="The fingerprint of the coordinator's authority, sha256:…")],
    name: Annotated[str | None, typer.Option(help="What people call this board; its host name if absent.")] = None,
    operator_key: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="The operator's public key: the peers in secure runs must then be on the fleet list that it signed.",
        ),
    ] = None,
    state_dir: StateDir = None,
    config: Config = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the coordinator that this board has joined, or its operator's key.")
    ] = False,
    wait: Annotated[
        float, typer.Option(min=0, max=7 * 86400, help="Seconds to wait for an operator, where the token asks for one.")
    ] = 900.0,
) -> None:
    """Enrol this board with a coordinator. The same command again is harmless."""
    from argosy_client.approval import Patience  # noqa: PLC0415  (as below)
    from argosy_client.join import join as enrol  # noqa: PLC0415  (it brings in the HTTP client)

    settings = load_settings(config, state_dir=state_dir, name=name)
    enrolment = enrol(
        url,
        token,
        pin,
        settings.state_dir,
        shown_name(settings),
        clock=SystemClock(),
        operator=_public_key(operator_key, "--operator-key"),
        force=force,
        patience=Patience(wait, lambda text: typer.echo(text, err=True)),
    )
    with storage_errors(settings.state_dir):
        remember_name(settings)
        give_to_owner(settings.state_dir)
    start = ["argosy-device", "run"]
    for flag, value in (("--config", config), ("--state-dir", state_dir)):
        start += [flag, str(value)] if value is not None else []
    Console().print(f"This board is the device [bold]{enrolment.device}[/bold] of the site {enrolment.site}.")
    if enrolment.operator is not None:
        operator = x509.short_fingerprint(enrolment.operator)
        Console().print(f"It takes fleet lists of the operator's key {operator}.", highlight=False)
    Console().print(f"Start it with: {shlex.join(start)}", soft_wrap=True, highlight=False, markup=False)


def _public_key(file: Path | None, option: str) -> x509.PublicKey | None:
    try:
        return None if file is None else x509.load_public_key(file)
    except CertificateInvalid as error:
        raise typer.BadParameter(f"{file}: {error.facts['why']}", param_hint=option) from None


@app.command("first-boot", epilog=examples("argosy-device first-boot", "argosy-device first-boot --wait 60"))
def first_boot(
    file: Annotated[
        Path | None, typer.Option("--file", help="The enrolment file; sought on the boot partition if absent.")
    ] = None,
    state_dir: StateDir = None,
    config: Config = None,
    root: Annotated[Path, typer.Option(help="Where this board's file system begins.")] = Path("/"),
    wait: Annotated[float, typer.Option(min=0, help="Seconds to try again while nobody answers.")] = 300.0,
) -> None:
    """Join with the file that `argosy-provision image` put on the card, and erase it. Run again, it does no harm."""
    from argosy_client import first_boot as boot  # noqa: PLC0415  (it brings in the HTTP client)

    found = file or boot.find(root)
    if found is None or not found.exists():
        typer.echo("There is no enrolment file: nothing to do.")
        return
    configure_logs()
    clock = SystemClock()
    patience = boot.Patience(wait, clock, Backoff(random.SystemRandom(), base=1.0, cap=30.0, floor=0.5))
    enrolment = boot.first_boot(found, patience=patience, root=root, config=config, state_dir=state_dir)
    typer.echo(f"This board is the device {enrolment.device} of the site {enrolment.site}. {found} is erased.")


@app.command(
    "serve-serial",
    epilog=examples(
        "argosy-device serve-serial",
        "argosy-device serve-serial --port /dev/ttyAMA0 --baud 921600 --once",
        "argosy-device serve-serial --port - --state-dir ./state",
    ),
)
def serve_serial(
    *,
    port: Annotated[str, typer.Option(help="The board's serial port; - is standard input and output.")] = "/dev/ttyGS0",
    baud: Annotated[int, typer.Option(help="Bits a second; the same as the station's.")] = 115200,
    once: Annotated[bool, typer.Option("--once", help="End when the board is enrolled.")] = False,
    state_dir: StateDir = None,
    config: Config = None,
) -> None:
    """Let a station enrol this board over a serial cable (`argosy-provision serial`), until SIGTERM or Ctrl-C."""
    from argosy_client.serial_port import STDIO, SerialPort  # noqa: PLC0415  (few boards need it)
    from argosy_client.serve_serial import Desk, serve  # noqa: PLC0415  (likewise)

    settings = load_settings(config, state_dir=state_dir)
    configure_logs(settings.log_level)
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    serve(
        lambda: SerialPort(port, baud),
        Desk(settings),
        clock=SystemClock(),
        stopping=stopping,
        once=once,
        reopen=port != STDIO,
    )


@app.command(epilog=examples("argosy-device run", "argosy-device run --config ./device.toml --state-dir ./state"))
def run(config: Config = None, state_dir: StateDir = None) -> None:
    """Take part, until SIGTERM or Ctrl-C."""
    flags = (("--config", config), ("--state-dir", state_dir))
    raise typer.Exit(run_daemon([word for flag, value in flags if value is not None for word in (flag, str(value))]))


@app.command(epilog=examples("argosy-device status", "argosy-device status --json"))
def status(
    config: Config = None,
    state_dir: StateDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show whether this board is enrolled, running and connected, and what it has to do."""
    found = read_status(load_settings(config, state_dir=state_dir))
    if as_json:
        typer.echo(json.dumps(found.as_json()))
    else:
        Console().print(found.as_table())
    if not found.enrolled:
        raise NotEnrolled(state_dir=found.state_dir)


app.command("backends", epilog=examples("argosy-device backends", "argosy-device backends --json"))(inference.backends)
app.command("models", epilog=examples("argosy-device models", "argosy-device models --json"))(inference.models)
app.command("infer", epilog=examples("argosy-device infer har --input window.npy"))(inference.infer)
app.command(
    "plan",
    epilog=examples(
        "argosy-device plan har",
        "argosy-device plan har --deadline-ms 20 --apply",
        "argosy-device plan har --forget",
    ),
)(placement.plan)


@app.command(
    epilog=examples(
        "argosy-device check",
        "argosy-device check --json | jq .severity",
        "argosy-device check --url https://10.0.0.5:8444 --pin sha256:c7a2…",
    )
)
def check(
    url: Annotated[str | None, typer.Option(help="Check the way to this coordinator, before joining it.")] = None,
    pin: Annotated[str | None, typer.Option(help="The fingerprint that its authority should have, sha256:…")] = None,
    state_dir: StateDir = None,
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Find out whether this board is fit to take part, and what to do if not. Changes nothing.

    Exits with 0 if nothing is worse than a hint, 110 after a warning, 111 after an error.
    """
    from argosy_client.check.checks import examine  # noqa: PLC0415  (it brings in the daemon's and the join's parts)
    from argosy_client.check.readings import Wanted, read  # noqa: PLC0415
    from argosy_client.check.report import show, verdict  # noqa: PLC0415
    from argosy_common.coordinator_https import Address  # noqa: PLC0415

    settings = load_settings(config, state_dir=state_dir)
    wanted = Wanted(Address.parse(url) if url else None, (pin or "").strip().lower())
    findings = examine(read(settings.state_dir, clock=SystemClock(), wanted=wanted))
    show(findings, json=as_json)
    if (error := verdict(findings)) is not None:
        raise error


@app.command(epilog=examples("argosy-device bugreport .", "argosy-device bugreport /tmp/board.tar.gz"))
def bugreport(
    target: Annotated[Path, typer.Argument(help="The file to write, or a folder that gets one.", metavar="FILE")],
    state_dir: StateDir = None,
    config: Config = None,
) -> None:
    """Gather versions, settings, state, checks and the ends of logs for whoever is to find a fault; no secrets."""
    from argosy_client.bug_report import write_report  # noqa: PLC0415  (as above)

    settings = load_settings(config, state_dir=state_dir)
    typer.echo(write_report(settings, target, read_status(settings).as_json(), SystemClock()))
    typer.echo("Look through it before you hand it on: names, addresses and what apps wrote are in it.", err=True)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(f"argosy-device {__version__}")


@dataclass(frozen=True)
class Status:
    """What can be told of a device from its state directory."""

    state_dir: Path
    device: str | None
    node_id: int | None
    site: str | None
    broker: str | None
    operator: str | None
    """The fingerprint of the operator's key; None: the coordinator was trusted at enrolment."""
    certificate_ends_at: str
    """ISO 8601, UTC, empty if not enrolled; the daemon renews it long before."""
    pid: int | None
    connected: bool
    why: str
    since: str
    instructions: dict[str, int]

    @property
    def enrolled(self) -> bool:
        """Tell whether the device has joined a coordinator."""
        return self.device is not None

    def as_json(self) -> dict[str, Any]:
        """Return the status as plain data."""
        return {**self.__dict__, "state_dir": str(self.state_dir), "enrolled": self.enrolled}

    def as_table(self) -> Table:
        """Return the status for people."""
        link = "connected" if self.connected else f"not connected{': ' + self.why if self.why else ''}"
        waiting = ", ".join(f"{count} {state}" for state, count in self.instructions.items()) or "none"
        rows = {
            "device": self.device or "not enrolled",
            "site": self.site or "–",
            "operator": self._operator_text() if self.enrolled else "–",
            "certificate": f"until {self.certificate_ends_at[:16].replace('T', ' ')} UTC" if self.enrolled else "–",
            "state": str(self.state_dir),
            "daemon": f"running (process {self.pid})" if self.pid else "not running",
            "broker": f"{self.broker or '–'}{f' ({link})' if self.pid else ''}",
            "instructions": waiting,
        }
        table = Table(box=None, show_header=False)
        for label, value in rows.items():
            table.add_row(f"[bold]{label}[/bold]", value)
        return table

    def _operator_text(self) -> str:
        if self.operator is None:
            return "no key pinned: coordinator trusted at enrolment"
        return f"key {self.operator[:16]}"


def read_status(settings: DeviceSettings) -> Status:
    """Read what the state directory tells; nothing is locked or changed."""
    folder = settings.state_dir
    try:
        enrolment: Enrolment | None = Enrolment.load(folder)
    except NotEnrolled:
        enrolment = None
    pid = running_pid(folder)
    link = _link_note(folder / STATUS) if pid else {}
    certificate = x509.load_certificate(enrolment.certificate_path) if enrolment else None
    joined = "{}:{}".format(*enrolment.brokers[0]) if enrolment else ""
    return Status(
        state_dir=folder,
        device=enrolment.device if enrolment else None,
        node_id=enrolment.node_id if enrolment else None,
        site=enrolment.site if enrolment else None,
        broker=str(link.get("broker", joined)) if enrolment else None,
        operator=x509.fingerprint(enrolment.operator).hex() if enrolment and enrolment.operator else None,
        certificate_ends_at=certificate.not_valid_after_utc.isoformat() if certificate else "",
        pid=pid,
        connected=link.get("connected") is True,
        why=str(link.get("why", "")),
        since=str(link.get("since", "")),
        instructions=_instructions(folder / JOURNAL),
    )


def _link_note(file: Path) -> dict[str, object]:
    try:
        note = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _instructions(journal: Path) -> dict[str, int]:
    """Count the journal's instructions by state."""
    if not journal.is_file():
        return {}
    try:
        db = sqlite3.connect(f"file:{journal}?mode=ro", uri=True, timeout=2.0)
        try:
            return dict(db.execute("SELECT state, count(*) FROM instructions GROUP BY state ORDER BY state").fetchall())
        finally:
            db.close()
    except sqlite3.Error:
        return {}  # damaged, or another user's: the daemon's log tells


def main() -> int:
    """Run a command line; return the exit code. Usage errors exit with 2."""
    try:
        app()
    except ArgosyError as error:
        sys.stderr.write(f"{error.message}\n{error.remedy_text}\n")
        return error.exit_code
    return 0
