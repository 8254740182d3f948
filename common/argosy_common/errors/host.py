"""Failures of the machine a daemon runs on, of its settings, and of our own code."""

from __future__ import annotations

from argosy_common.errors.base import ArgosyError, Fault


class SettingsInvalid(ArgosyError):
    """A configuration file, an environment variable or a flag cannot be used."""

    code = "settings-invalid"
    exit_code = 10
    fault = Fault.OPERATOR
    template = "The setting {name} cannot be used: {why}."
    remedy = "Correct it in {source} and start again."


class PortInUse(ArgosyError):
    """A port that a daemon must listen on is taken."""

    code = "port-in-use"
    exit_code = 11
    fault = Fault.OPERATOR
    template = "Port {port} on {host}, wanted for {purpose}, is already in use."
    remedy = "Stop the program that holds it (ss -ltnp shows it), or set another port: {setting}."


class AlreadyRunning(ArgosyError):
    """Another daemon holds the state directory."""

    code = "already-running"
    exit_code = 12
    fault = Fault.OPERATOR
    template = "Another {daemon} already runs on {state_dir} (process {pid})."
    remedy = "Stop it first, or give this one a state directory of its own with --state-dir."


class DiskFull(ArgosyError):
    """The disk has no room for what must be written."""

    code = "disk-full"
    exit_code = 13
    fault = Fault.OPERATOR
    template = "The disk that holds {path} is full: {needed} bytes were needed."
    remedy = "Free some space; the work goes on by itself at the next attempt."


class StorageFailed(ArgosyError):
    """A file or the database could not be read or written."""

    code = "storage-failed"
    exit_code = 14
    fault = Fault.OPERATOR
    template = "{path} could not be used: {why}."
    remedy = "Check that the disk is healthy, mounted read-write and owned by the daemon's user."


class DatabaseNewer(StorageFailed):
    """The database has a schema that this version does not know: a newer one has been here."""

    code = "database-newer"
    template = "The database {path} is of a newer version of Argosy: it has schema {found}, and this one knows {known}."
    remedy = "Nothing was changed. Install the newer version again, or restore a backup that this version made."


class BackupDamaged(StorageFailed):
    """A file that is no backup, or not as it was written."""

    code = "backup-damaged"
    template = "The backup {path} cannot be used: {why}."
    remedy = "Nothing was written. Copy it again from where it is kept, or take another backup."


class BackupSealed(StorageFailed):
    """A backup that is opened with another passphrase than it was made with."""

    code = "backup-sealed"
    template = "The backup {path} cannot be opened: {why}."
    remedy = "Name the file of its passphrase with --passphrase-file. Nothing was written."


class RestoreRefused(StorageFailed):
    """A restore into what is in use."""

    code = "restore-refused"
    template = "Nothing is restored into {path}: {why}."
    remedy = "Name an empty folder, or an empty database. What is there was left as it is."


class BrokerFailedToStart(ArgosyError):
    """The managed broker did not come up."""

    code = "broker-failed-to-start"
    exit_code = 15
    fault = Fault.OPERATOR
    template = "The {broker} broker did not start: {why}."
    remedy = "Read {log} for its own words; `argosy doctor` checks the installation."


class DaemonFailed(ArgosyError):
    """A daemon that was started on this machine stopped at once."""

    code = "daemon-failed"
    exit_code = 18
    fault = Fault.OPERATOR
    template = "The {daemon} failed at once: {why}."
    remedy = "Mend what they name; {log} has the rest."


class CoordinatorUnreachable(ArgosyError):
    """The admin socket does not answer."""

    code = "coordinator-unreachable"
    exit_code = 16
    fault = Fault.OPERATOR
    template = "No coordinator answers on {socket}: {why}."
    remedy = (
        "Start it (`argosy-coordinator run`, or systemctl start argosy-coordinator), or name its socket, admin.sock in "
        "its state directory, with --socket or ARGOSY_SOCKET."
    )


class AdminRequestInvalid(ArgosyError):
    """The coordinator's admin API does not understand a request."""

    code = "admin-request-invalid"
    exit_code = 17
    fault = Fault.OPERATOR
    template = "The coordinator refused the request: {why}."
    remedy = "Correct the value it names; if `argosy` made it by itself, bring both to the same version."
