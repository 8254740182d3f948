"""`argosy-coordinator ca`: the certificate authority, on its state directory; no coordinator need run."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509 as cx509

from argosy_common import x509
from argosy_common.clock import SystemClock
from argosy_common.errors import NoAuthority
from argosy_common.files import give_to_owner
from argosy_server.ca import CertificateAuthority
from argosy_server.cli.daemon_settings import ConfigFile, StateDir
from argosy_server.cli.options import JsonOption, examples
from argosy_server.cli.terminal import pairs, print_json, say, stdout
from argosy_server.root_key import take_offline
from argosy_server.settings import load_settings

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="The certificate authority: show it, take its root offline, renew what is below it.",
)


@app.command("show", epilog=examples("argosy-coordinator ca show", "argosy-coordinator ca show --json"))
def show(config: ConfigFile = None, state_dir: StateDir = None, json: JsonOption = False) -> None:
    """Show the pin, and how long root and intermediate are good for."""
    folder = _folder(config, state_dir)
    root, issuer = x509.load_certificate(folder / "ca.crt"), x509.load_certificate(folder / "intermediate.crt")
    here = (folder / "ca.key").exists()
    if json:
        print_json(
            {
                "pin": x509.spki_pin(root),
                "root_ends_at": _iso(root),
                "root_is_here": here,
                "intermediate_ends_at": _iso(issuer),
                "folder": str(folder),
            }
        )
        return
    key = str(folder / "ca.key") if here else "offline"
    ends = [("root", _until(root)), ("root's key", key), ("intermediate", _until(issuer))]
    stdout().print(pairs([("pin", x509.spki_pin(root)), *ends]))


@app.command("take-root-offline", epilog=examples("argosy-coordinator ca take-root-offline /media/stick/root.key"))
def take_root_offline(
    target: Annotated[Path, typer.Argument(help="The file on another medium that it is moved to.", metavar="FILE")],
    config: ConfigFile = None,
    state_dir: StateDir = None,
) -> None:
    """Move the root's key to another medium. The coordinator goes on with its intermediate."""
    folder = _folder(config, state_dir)
    take_offline(folder, target)
    issuer = x509.load_certificate(folder / "intermediate.crt")
    say(f"The root's key is in {target} now, and no longer here. Keep it where it is safe, and a copy of it:")
    say(f"it is needed before {_day(issuer)}, to renew the intermediate: argosy-coordinator ca renew --root-key FILE")


@app.command("renew", epilog=examples("argosy-coordinator ca renew --root-key /media/stick/root.key"))
def renew(
    root_key: Annotated[Path, typer.Option("--root-key", help="The file of the root's key.", metavar="FILE")],
    config: ConfigFile = None,
    state_dir: StateDir = None,
) -> None:
    """Have the root, which is offline, sign the intermediate anew: same key, five more years."""
    folder = _folder(config, state_dir)
    authority = CertificateAuthority.renew(folder, SystemClock(), root_key)
    give_to_owner(folder)
    say(f"The intermediate is good {_until(authority.issuer)}. Restart the coordinator, so that it shows the new one.")


def _folder(config: Path | None, state_dir: Path | None) -> Path:
    """Return the authority's folder.

    Raises:
        NoAuthority: the coordinator has never run on this state directory.
    """
    folder = load_settings(config, state_dir).state_dir / "ca"
    if not (folder / "ca.crt").exists() or not (folder / "intermediate.crt").exists():
        raise NoAuthority(folder=folder)
    return folder


def _iso(certificate: cx509.Certificate) -> str:
    return certificate.not_valid_after_utc.isoformat()


def _day(certificate: cx509.Certificate) -> str:
    ends: datetime = certificate.not_valid_after_utc
    return f"{ends:%Y-%m-%d}"


def _until(certificate: cx509.Certificate) -> str:
    return f"until {_day(certificate)}"
