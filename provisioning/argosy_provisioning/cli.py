"""`argosy-provision`: the station's command, and the one place that exits with an error's code."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live

from argosy_common import __version__, x509
from argosy_common.clock import SystemClock
from argosy_common.errors import ArgosyError, CertificateInvalid, SerialPortsNone
from argosy_provisioning import image, terminal
from argosy_provisioning.batch import Batch
from argosy_provisioning.label import LabelFolder
from argosy_provisioning.port import StationPort, bench_ports
from argosy_provisioning.station import Order

INTERRUPTED = 130
_REFRESH_S = 0.2

app = typer.Typer(
    name="argosy-provision",
    help="Put boards into the fleet from this machine.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("image", epilog=image.EXAMPLES)(image.image)

Coordinator = Annotated[str, typer.Option(help="The coordinator's enrolment address, https://…")]
Token = Annotated[
    str,
    typer.Option(envvar="ARGOSY_TOKEN", help="The join token that `argosy token create` printed.", show_envvar=True),
]
Pin = Annotated[str, typer.Option(help="The fingerprint of the coordinator's authority, sha256:…")]
OperatorKey = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="The operator's public key, which the board pins for fleet lists."),
]
Site = Annotated[str | None, typer.Option(help="Refuse a token that leads to another site.")]
Baud = Annotated[int, typer.Option(min=1, help="Bits a second; the same as the board's.")]
LabelDir = Annotated[Path, typer.Option(file_okay=False, help="Where each board's label goes: text, SVG, PNG.")]
Force = Annotated[
    bool, typer.Option("--force", help="Replace the coordinator that a board has joined, or its operator's key.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _examples(*lines: str) -> str:
    return "\n\n".join(["[dim]Examples[/dim]", *lines])


@app.command(
    "serial",
    epilog=_examples(
        "argosy-provision serial /dev/ttyUSB0 --coordinator https://10.0.0.5:8444 --token … --pin sha256:…",
        "argosy-provision serial /dev/ttyACM0 --coordinator … --token … --pin … --name kitchen --site lab",
        "argosy-provision serial /dev/ttyUSB0 --coordinator … --token … --pin … --operator-key operator.pub",
    ),
)
def serial(
    *,
    port: Annotated[str, typer.Argument(help="The serial port that the board is at.")],
    coordinator: Coordinator,
    token: Token,
    pin: Pin,
    operator_key: OperatorKey = None,
    site: Site = None,
    name: Annotated[str | None, typer.Option(help="What people call the board; by its host name if absent.")] = None,
    baud: Baud = 115200,
    label_dir: LabelDir = Path("labels"),
    force: Force = False,
    json: AsJson = False,
) -> None:
    """Enrol the board at a serial port. It runs `argosy-device serve-serial` and needs no network."""
    order = _order(coordinator, token, pin, operator_key, site, force=force)
    work = _batch({port: _name(name)}, order, label_dir, baud=baud)
    _carry_out(work)
    if json:
        terminal.print_json(terminal.result(work.places[0]))
    elif work.places[0].enrolled:
        terminal.say(terminal.COMPARE)
        terminal.say(f"Label: {', '.join(work.places[0].labels)}")
    _raise_worst(work)


@app.command(
    "batch",
    epilog=_examples(
        "argosy-provision batch --all --coordinator https://10.0.0.5:8444 --token … --pin sha256:… --name-prefix north",
        "argosy-provision batch /dev/ttyUSB0 /dev/ttyUSB1 --coordinator … --token … --pin … --json",
    ),
)
def batch(
    *,
    ports: Annotated[list[str] | None, typer.Argument(help="The serial ports.", show_default=False)] = None,
    every: Annotated[bool, typer.Option("--all", help="Every /dev/ttyUSB* and /dev/ttyACM*.")] = False,
    coordinator: Coordinator,
    token: Token,
    pin: Pin,
    operator_key: OperatorKey = None,
    site: Site = None,
    name_prefix: Annotated[
        str | None, typer.Option(help="Call the boards PREFIX-1, PREFIX-2 … in the order of the ports.")
    ] = None,
    baud: Baud = 115200,
    label_dir: LabelDir = Path("labels"),
    force: Force = False,
    json: AsJson = False,
) -> None:
    """Enrol the boards at many serial ports at once, with one token that has a use for each.

    Exits with 0 if every board is enrolled, else with the gravest failure's code.
    """
    if every == bool(ports):
        raise typer.BadParameter("name the ports, or say --all")
    order = _order(coordinator, token, pin, operator_key, site, force=force)
    found = bench_ports() if every else list(dict.fromkeys(ports or []))
    if not found:
        raise SerialPortsNone
    prefix = _name(name_prefix)
    names = {name: f"{prefix}-{number}" if prefix else None for number, name in enumerate(found, 1)}
    work = _batch(names, order, label_dir, baud=baud)
    _carry_out(work)
    if json:
        terminal.print_json([terminal.result(place) for place in work.places])
    else:
        terminal.say(terminal.COMPARE)
    _raise_worst(work)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(f"argosy-provision {__version__}")


def _order(
    coordinator: str, token: str, pin: str, operator_key: Path | None, site: str | None, *, force: bool
) -> Order:
    try:
        operator = None if operator_key is None else x509.load_public_key(operator_key)
    except CertificateInvalid as error:
        raise typer.BadParameter(f"{operator_key}: {error.facts['why']}", param_hint="--operator-key") from None
    return Order.parse(coordinator, token, pin, operator=operator, site=site, force=force)


def _batch(ports: dict[str, str | None], order: Order, labels: Path, *, baud: int) -> Batch:
    return Batch(
        ports,
        order,
        StationPort,
        clock=SystemClock(),
        rng=random.SystemRandom(),
        labels=LabelFolder(labels).prepare(),
        baud=baud,
    )


def _carry_out(work: Batch) -> None:
    """Enrol them all and show how it goes; on a terminal the table lives, elsewhere its end is printed."""
    console = terminal.stderr()
    work.start()
    if not console.is_terminal:
        while not work.wait(_REFRESH_S):
            continue
        console.print(terminal.bench(work.places))
        return
    with Live(terminal.bench(work.places), console=console, auto_refresh=False) as live:
        over = False
        while not over:
            over = work.wait(_REFRESH_S)
            live.update(terminal.bench(work.places), refresh=True)


def _raise_worst(work: Batch) -> None:
    worst = work.worst()
    if worst is not None:
        raise worst


def _name(text: str | None) -> str | None:
    if text is not None and not 1 <= len(text) <= 100:
        raise typer.BadParameter("a name has 1 to 100 characters")
    return text


def main() -> None:
    """Be `argosy-provision`. Usage errors exit with 2, Ctrl-C with 130; the same command again completes the work."""
    try:
        app()
    except ArgosyError as error:
        terminal.print_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
