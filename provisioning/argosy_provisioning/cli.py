"""`argosy-provision`: the verbs, each in its module, and the one place that exits with an error's code."""

from __future__ import annotations

import sys

import typer

from argosy_common import __version__
from argosy_common.errors import ArgosyError
from argosy_provisioning import image

app = typer.Typer(
    name="argosy-provision",
    help="Put boards into the fleet without typing on them.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("image", epilog=image.EXAMPLES)(image.image)


@app.command("version")
def version() -> None:
    """Print the version."""
    typer.echo(f"argosy-provision {__version__}")


def main() -> None:
    """Be `argosy-provision`. Usage errors exit with 2."""
    try:
        app()
    except ArgosyError as error:
        sys.stderr.write(f"{error.message}\n{error.remedy_text}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
