"""`argosy-coordinator`: start the daemon, or check its settings without starting it."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Callable
from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from argosy_common.errors import ArgosyError, BrokerFailedToStart, PortInUse, SettingsInvalid, StorageFailed
from argosy_common.files import private_folder, write_atomic
from argosy_server.cli import authority
from argosy_server.cli.client import Data
from argosy_server.cli.daemon_settings import ConfigFile, StateDir
from argosy_server.cli.main import run_app
from argosy_server.cli.operations import print_checks
from argosy_server.cli.options import JsonOption, examples
from argosy_server.cli.terminal import print_json
from argosy_server.settings import FLAGS_VARIABLE, BrokerTable, CoordinatorSettings, load_settings

app = typer.Typer(
    name="argosy-coordinator",
    help="The coordinator daemon: it enrols devices and drives training runs.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(authority.app, name="ca")

LogLevel = Annotated[
    str | None, typer.Option("--log-level", help="DEBUG, INFO, WARNING or ERROR.", show_default="INFO")
]


@app.command(
    "run",
    epilog=examples(
        "argosy-coordinator run",
        "argosy-coordinator run --config /etc/argosy/coordinator.toml",
        "ARGOSY_COORDINATOR_BROKER__PORT=8884 argosy-coordinator run --state-dir ./state",
    ),
)
def run(config: ConfigFile = None, state_dir: StateDir = None, log_level: LogLevel = None) -> None:
    """Run the coordinator in the foreground, until SIGTERM or Ctrl-C."""
    settings = load_settings(config, state_dir, log_level)
    _check_folder(settings.state_dir)
    # The daemon takes this process's place, so that it does not carry the command line's libraries in memory for ever.
    given = {"config": config, "state_dir": state_dir, "log_level": log_level}
    flags = {name: str(value) for name, value in given.items() if value is not None}
    environment = {**os.environ, FLAGS_VARIABLE: dumps(flags)}
    os.execve(sys.executable, [sys.executable, "-m", "argosy_server.daemon"], environment)  # noqa: S606  (ourselves)


@app.command("check", epilog=examples("argosy-coordinator check --config ./coordinator.toml"))
def check(
    config: ConfigFile = None, state_dir: StateDir = None, log_level: LogLevel = None, json: JsonOption = False
) -> None:
    """Check the settings and this machine without starting anything, and print the settings that hold.

    Exits with the code of the first check that fails.
    """
    settings = load_settings(config, state_dir, log_level)
    failed: ArgosyError | None = None
    checks: list[Data] = []
    probes: list[tuple[str, Callable[[], str]]] = [
        ("state directory", lambda: _check_folder(settings.state_dir)),
        ("blobs", lambda: _check_folder(settings.blobs_dir)),
        ("broker", lambda: _check_broker(settings.broker)),
        ("enrolment", lambda: _check_port(settings.enrolment.host, settings.enrolment.port, "enrolment")),
    ]
    for name, probe in probes:
        try:
            checks.append({"name": name, "ok": True, "detail": probe(), "remedy": ""})
        except ArgosyError as error:
            failed = failed or error
            checks.append({"name": name, "ok": False, "detail": error.message, "remedy": error.remedy_text})
    if json:
        print_json({"settings": settings.model_dump(mode="json"), "checks": checks})
    else:
        print_checks([*checks, *_told(settings)], json=False)
    if failed is not None:
        raise typer.Exit(failed.exit_code)


def _told(settings: CoordinatorSettings) -> list[Data]:
    database = "SQLite" if settings.database is None else settings.database.split("://")[0]
    facts = {"site": settings.site, "admin socket": settings.socket_path, "database": database}
    return [{"name": name, "ok": True, "detail": str(fact), "remedy": ""} for name, fact in facts.items()]


def _check_folder(folder: Path) -> str:
    """Make and write to a folder, as the daemon will.

    Raises:
        StorageFailed: it cannot be made or written to.
    """
    probe = folder / ".check"
    try:
        private_folder(folder)
        write_atomic(probe, b"")
        probe.unlink()
    except OSError as error:
        raise StorageFailed(path=folder, why=error.strerror or error) from None
    return str(folder)


def _check_broker(broker: BrokerTable) -> str:
    """Find the broker and its port.

    Raises:
        BrokerFailedToStart: Mosquitto is wanted and not installed.
        PortInUse: another program listens there.
    """
    if broker.external_address is not None:
        host, port = broker.external_address
        return f"external, {host}:{port}"
    mosquitto = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if broker.kind == "mosquitto" and mosquitto is None:
        raise BrokerFailedToStart(broker="mosquitto", why="it is not installed", log="the package manager's pages")
    kind = "iotcore" if broker.kind == "iotcore" or mosquitto is None else "mosquitto"
    return f"{kind}, {_check_port('127.0.0.1' if kind == 'iotcore' else broker.host, broker.port, 'broker')}"


def _check_port(host: str, port: int, table: str) -> str:
    """Try to bind a port.

    Raises:
        PortInUse: it is taken.
        SettingsInvalid: the address is not one of this machine.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, proto) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if port and error.errno in {98, 13}:  # EADDRINUSE, EACCES
            raise PortInUse(host=host, port=port, purpose=table, setting=f"{table}.port") from None
        raise SettingsInvalid(name=f"{table}.host", why=error.strerror or error, source="the settings") from None
    return f"{host}:{port or 'any free port'}"


def main() -> None:
    """Be `argosy-coordinator`."""
    run_app(app)


if __name__ == "__main__":
    main()
