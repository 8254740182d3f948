"""Failures of enrolment from a flashed card: at the bench that writes it, and at the board's first boot."""

from __future__ import annotations

from argosy_common.errors.base import ArgosyError, Fault


class BootFolderInvalid(ArgosyError):
    """The folder is not the boot partition of such a system."""

    code = "boot-folder-invalid"
    exit_code = 112
    fault = Fault.OPERATOR
    template = "{folder} is no boot partition of {kind}: it has no {missing}."
    remedy = "Flash the card, mount its first partition, and name that folder; or choose another system with --for."


class CardTaken(ArgosyError):
    """The card carries an enrolment that no board has used yet."""

    code = "card-taken"
    exit_code = 113
    fault = Fault.OPERATOR
    template = "This card carries an enrolment already: {path}."
    remedy = "If no board is to boot from it as it is, run the same command with --force, and revoke the old token."


class BootFileTaken(ArgosyError):
    """A file that must start our part of the first boot belongs to something else."""

    code = "boot-file-taken"
    exit_code = 114
    fault = Fault.OPERATOR
    template = "{path} is in use: {why}."
    remedy = "Remove that from the card if it is not needed, or let it run `argosy-device first-boot` itself."


class CardFull(ArgosyError):
    """The card has no room for the enrolment."""

    code = "card-full"
    exit_code = 115
    fault = Fault.OPERATOR
    template = "There is no room left on the card at {folder}."
    remedy = "Free some kilobytes there, then run the same command again."


class CardReadOnly(ArgosyError):
    """The card cannot be written."""

    code = "card-read-only"
    exit_code = 116
    fault = Fault.OPERATOR
    template = "The card at {folder} cannot be written: {why}."
    remedy = "Look at the card's lock switch, mount it read-write, or run the command as the user who mounted it."


class EnrolmentFileInvalid(ArgosyError):
    """The file that a board should join with cannot be used."""

    code = "enrolment-file-invalid"
    exit_code = 117
    fault = Fault.OPERATOR
    template = "The enrolment file {path} cannot be used: {why}."
    remedy = "Write it anew with `argosy-provision image --force`, and unmount the card before you pull it."


class EnrolmentFileKept(ArgosyError):
    """A file that has done its work, and holds a token, could not be erased."""

    code = "enrolment-file-kept"
    exit_code = 118
    fault = Fault.OPERATOR
    template = "The enrolment file {path} is of no use any more and could not be erased: {why}."
    remedy = "Delete it by hand: it holds a join token. If that has uses left, `argosy token revoke` ends it."


class GoldenImageUnclean(ArgosyError):
    """An image that is to be copied holds what must be each board's own."""

    code = "golden-image-unclean"
    exit_code = 119
    fault = Fault.OPERATOR
    template = "{root} still holds what must not be copied to other boards: {found}."
    remedy = "Clear what the list marks, each with the command beside it, before you copy the image."
