"""Backups: all that a coordinator needs to live on elsewhere, in one file, taken while it runs.

A backup is a tar in gzip; with a passphrase that is sealed (`sealing.py`). Its files:

    coordinator.db     the database as one SQLite file, whatever it is in (`argosy_server/store/snapshot.py`)
    coordinator.toml   the settings that differ from the defaults, but for those that name places on this machine
    ca/ fleet/ runs/   as in the state directory
    blobs/sha256/      every whole blob
    manifest.json      the last one: size and SHA-256 of every other, when it was made, by which version

The database is taken first: what the files have beyond it does no harm, and what it refers to is never removed. What
is in a state directory and not in a backup is in `LEFT_OUT`, with the reason; nothing is left out by oversight.
"""

from argosy_server.backup.make import LEFT_OUT, make_backup
from argosy_server.backup.manifest import TREES, Manifest
from argosy_server.backup.restore import restore_backup

__all__ = ["LEFT_OUT", "TREES", "Manifest", "make_backup", "restore_backup"]
