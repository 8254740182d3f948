"""Failures around new versions of the devices' own packages."""

from __future__ import annotations

from argosy_common.errors.base import Fault
from argosy_common.errors.model import ModelError


class UpgradeError(ModelError, family=True):
    """What all of these share; their exit code is that of rollouts of models."""


# --- on a device


class UpgradeNotAllowed(UpgradeError):
    """The board's administrator has not allowed upgrades."""

    code = "upgrade-not-allowed"
    fault = Fault.OPERATOR
    template = "This board's settings do not allow that it is upgraded from afar."
    remedy = "On the board, put `allowed = true` under [upgrade] in /etc/argosy/device.toml, and restart argosy-device."


class UpgradeUnavailable(UpgradeError):
    """The device was not installed from Debian packages."""

    code = "upgrade-unavailable"
    fault = Fault.OPERATOR
    template = "This device was installed in another way than by Debian packages: {folder} is missing."
    remedy = "Upgrade it as it was installed, or install the package argosy-device. docs/upgrades.md"


class UpgradeRefused(UpgradeError):
    """The board would not install that version; nothing has changed."""

    code = "upgrade-refused"
    fault = Fault.OPERATOR
    template = "Version {version} was not installed: {why}."
    remedy = "Nothing has changed on the board; `journalctl -u argosy-device-upgrade` there tells more."


class UpgradeFailed(UpgradeError):
    """The board installed that version and went back from it."""

    code = "upgrade-failed"
    fault = Fault.OPERATOR
    template = "The board went back from version {version}: {why}."
    remedy = "`journalctl -u argosy-device-upgrade -u argosy-device` on the board tells what happened."


# --- at the coordinator


class UpgradeNotFound(UpgradeError):
    """No upgrade of that number, or none at all."""

    code = "upgrade-not-found"
    fault = Fault.OPERATOR
    template = "There is no upgrade '{rollout}'."
    remedy = "`argosy device upgrades` lists them; name one by its number, or none for the latest."


class UpgradeUnderWay(UpgradeError):
    """The fleet can only be upgraded to one version at a time."""

    code = "upgrade-under-way"
    fault = Fault.OPERATOR
    template = "Upgrade {rollout} to {version} is {state}."
    remedy = "Wait for its end, or end it with `argosy device upgrade-stop {rollout}`; then start the next one."


class UpgradeUnsuitable(UpgradeError):
    """An upgrade that cannot be meant, or that nothing could come of."""

    code = "upgrade-unsuitable"
    fault = Fault.OPERATOR
    template = "The fleet cannot be upgraded to {version} so: {why}."
    remedy = "Nothing was sent. `argosy device upgrade --help` has examples, `argosy device list` the fleet."


class UpgradeStateForbids(UpgradeError):
    """An operator's wish that the upgrade's state does not allow."""

    code = "upgrade-state-forbids"
    fault = Fault.OPERATOR
    template = "Upgrade {rollout} is {state}, so it cannot {verb}."
    remedy = "`argosy device upgrade-status {rollout}` shows where it stands; docs/state-machines.md what may follow."


class UpgradeRolledBack(UpgradeError):
    """An upgrade that was taken back."""

    code = "upgrade-rolled-back"
    fault = Fault.OPERATOR
    template = "The upgrade to {version} was taken back: {why}."
    remedy = "The boards are back at what they had. `argosy device upgrade-status {rollout}` shows each one's reason."
