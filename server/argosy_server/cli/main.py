"""`argosy`: the operator's command. Here are the commands' order and the one place that exits with an error's code."""

from __future__ import annotations

import sys

import click
import typer
from typer.core import TyperGroup

from argosy_common.errors import ArgosyError, ProgrammingError
from argosy_server.cli import backup, bugreport, device, fleet, model, operations, run, token, up
from argosy_server.cli.terminal import print_error


class InOrder(TyperGroup):
    """Lists the commands in the order in which a newcomer needs them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """See `click.Group.list_commands`."""
        first = ["up", "token", "device", "run", "model", "fleet"]
        return [*first, *(name for name in super().list_commands(ctx) if name not in first)]


app = typer.Typer(
    name="argosy",
    cls=InOrder,
    help="Run federated learning on your boards. Every command explains itself with [bold]--help[/bold].",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("up", epilog=up.EXAMPLES)(up.up)
app.add_typer(token.app, name="token")
app.add_typer(device.app, name="device")
app.add_typer(run.app, name="run")
app.add_typer(model.app, name="model")
app.add_typer(fleet.app, name="fleet")
app.command("audit", epilog=operations.AUDIT_EXAMPLES)(operations.audit)
app.command("doctor", epilog=operations.DOCTOR_EXAMPLES)(operations.doctor)
app.command("backup", epilog=backup.BACKUP_EXAMPLES)(backup.backup)
app.command("restore", epilog=backup.RESTORE_EXAMPLES)(backup.restore)
app.command("bugreport", epilog=bugreport.EXAMPLES)(bugreport.bugreport)
app.command("version")(operations.version)


def run_app(commands: typer.Typer) -> None:
    """Run a command line; print a named error with its remedy and exit with its code. Usage errors exit with 2."""
    try:
        commands()
    except ArgosyError as error:
        print_error(error)
        sys.exit(error.exit_code)
    except Exception as error:  # noqa: BLE001  (the last frame of the program: told with its traceback)
        bug = ProgrammingError(what=f"{type(error).__name__}: {error}")
        bug.__cause__ = error
        print_error(bug)
        sys.exit(bug.exit_code)


def main() -> None:
    """Be `argosy`."""
    run_app(app)
