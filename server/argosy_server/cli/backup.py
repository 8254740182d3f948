"""`argosy backup` and `argosy restore`, on the state directory itself: keys do not go through the admin socket."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from argosy_common.blobs.store import storage_errors
from argosy_common.clock import SystemClock
from argosy_common.errors import SettingsInvalid
from argosy_server.cli.daemon_settings import ConfigFile, StateDir
from argosy_server.cli.options import JsonOption, examples
from argosy_server.cli.terminal import print_json, say, stdout
from argosy_server.cli.words import size

if TYPE_CHECKING:
    from argosy_server.backup import Manifest

BACKUP_EXAMPLES = examples(
    "argosy backup /media/stick/",
    "argosy backup /srv/backups/argosy.tar.gz",
    "argosy backup /srv/backups/ --passphrase-file /root/argosy.passphrase",
)
RESTORE_EXAMPLES = examples(
    "argosy restore argosy-20260501T120000Z.tar.gz --into /var/lib/argosy",
    "argosy restore argosy-20260501T120000Z.sealed --into ./fleet --passphrase-file /root/argosy.passphrase",
)

PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", help="A file whose first line is the passphrase.", metavar="FILE"),
]


def backup(
    target: Annotated[Path, typer.Argument(help="The file to write, or a folder that gets one.", metavar="FILE")],
    passphrase_file: PassphraseFile = None,
    config: ConfigFile = None,
    state_dir: StateDir = None,
    json: JsonOption = False,
) -> None:
    """Back up the coordinator of this machine into one file, while it runs. Run it as root or as its user.

    Who has the file can pass for the coordinator, so only its owner may read it; a passphrase seals it besides.
    """
    from argosy_server.backup import make_backup  # noqa: PLC0415  (SQLAlchemy, which other commands can spare)
    from argosy_server.backup.make import backup_name  # noqa: PLC0415
    from argosy_server.settings import load_settings  # noqa: PLC0415

    settings, clock, passphrase = load_settings(config, state_dir), SystemClock(), _passphrase(passphrase_file)
    if target.is_dir():
        target /= backup_name(clock.wall(), sealed=passphrase is not None)
    manifest = make_backup(settings, target, clock, passphrase)
    if json:
        print_json({"file": str(target), "bytes": target.stat().st_size, **_told(manifest)})
        return
    stdout().print(str(target))
    say(f"{len(manifest.files)} files, {size(target.stat().st_size)}. Keep it where it is safe: the keys are in it.")
    if manifest.missing:
        say(f"Blobs that are missing or damaged, and so not in it: {', '.join(each[:12] for each in manifest.missing)}")
    if manifest.skipped:
        say(f"Neither files nor folders, and so not in it: {', '.join(manifest.skipped)}")


def restore(
    archive: Annotated[Path, typer.Argument(help="The backup.", metavar="FILE")],
    into: Annotated[Path, typer.Option("--into", help="The state directory to make; empty or absent.", metavar="DIR")],
    database: Annotated[
        str | None,
        typer.Option("--database", help="URL of an empty database.", show_default="SQLite in DIR", metavar="URL"),
    ] = None,
    passphrase_file: PassphraseFile = None,
    json: JsonOption = False,
) -> None:
    """Make a state directory of a backup, after checking all of it. Stop the coordinator that it was taken of for good.

    What happened after the backup is not known here: revoke anew who was revoked since.
    """
    from argosy_server.backup import restore_backup  # noqa: PLC0415  (as above)
    from argosy_server.backup.manifest import SETTINGS  # noqa: PLC0415

    into = into.absolute()
    manifest = restore_backup(archive, into, SystemClock(), _passphrase(passphrase_file), database)
    if json:
        print_json({"state_dir": str(into), **_told(manifest)})
        return
    stdout().print(str(into))
    say(f"As of {manifest.made_at:%Y-%m-%d %H:%M} UTC. Its settings are in {into / SETTINGS}; look at them, then:")
    say(f"argosy-coordinator run --config {into / SETTINGS} --state-dir {into}")


def _told(manifest: Manifest) -> dict[str, object]:
    told = manifest.model_dump(mode="json", include={"made_at", "version", "site", "missing", "skipped"})
    return {**told, "files": len(manifest.files)}


def _passphrase(file: Path | None) -> bytes | None:
    """Read the passphrase.

    Raises:
        SettingsInvalid: the first line is empty.
        StorageFailed: the file cannot be read.
    """
    if file is None:
        return None
    with storage_errors(file):
        first = file.read_bytes().split(b"\n")[0].rstrip(b"\r")
    if not first:
        raise SettingsInvalid(name="--passphrase-file", why="its first line is empty", source="the command")
    return first
