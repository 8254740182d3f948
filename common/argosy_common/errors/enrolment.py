"""Failures of enrolment and identity."""

from __future__ import annotations

from argosy_common.errors.base import ArgosyError, Fault


class EnrolmentUnreachable(ArgosyError):
    """The coordinator's enrolment address does not answer."""

    code = "enrolment-unreachable"
    exit_code = 30
    fault = Fault.NETWORK
    template = "The coordinator at {url} cannot be reached: {why}."
    remedy = "Check the address, the port and the firewall, then run the same command again; the token is not used up."


class PinMismatch(ArgosyError):
    """The certificate authority is not the one whose fingerprint was given."""

    code = "pin-mismatch"
    exit_code = 31
    fault = Fault.PEER
    template = "The coordinator at {url} shows another certificate authority ({found}) than the pin says ({expected})."
    remedy = "Nothing was sent. Check the pin; if it is right, somebody is between you and the coordinator."


class TokenMalformed(ArgosyError):
    """The text is not a join token."""

    code = "token-malformed"
    exit_code = 32
    fault = Fault.OPERATOR
    template = "This is not a join token: {why}."
    remedy = "Paste the whole line that `argosy token create` printed."


class TokenUnknown(ArgosyError):
    """The token does not exist or its secret is wrong."""

    code = "token-unknown"
    exit_code = 33
    fault = Fault.OPERATOR
    template = "The coordinator does not know this token."
    remedy = "Make a new one with `argosy token create`."


class TokenExpired(ArgosyError):
    """The token's time is over."""

    code = "token-expired"
    exit_code = 34
    fault = Fault.OPERATOR
    template = "The token expired at {expired_at}."
    remedy = "Make a new one with `argosy token create --ttl 1h`."


class TokenExhausted(ArgosyError):
    """The token has been used as often as it may be."""

    code = "token-exhausted"
    exit_code = 35
    fault = Fault.OPERATOR
    template = "The token was already used {uses} of {uses} times."
    remedy = "Make a new one with `argosy token create`, one for each device, or with --uses N."


class RequestInvalid(ArgosyError):
    """An enrolment request that does not hold together."""

    code = "request-invalid"
    exit_code = 36
    fault = Fault.PEER
    template = "The request was refused: {why}."
    remedy = "Run `argosy-device join` again; if it repeats, bring both ends to the same version."


class DeviceRefused(ArgosyError):
    """This identity may not enrol."""

    code = "device-refused"
    exit_code = 37
    fault = Fault.OPERATOR
    template = "The coordinator refuses the device {device}: {why}."
    remedy = "See `argosy device show {device}` on the coordinator."


class BoardEnrolled(ArgosyError):
    """A board that is enrolled, by its printed serial number, asks under another identity."""

    code = "board-enrolled"
    exit_code = 19
    fault = Fault.OPERATOR
    template = "A board with the serial number {serial} is enrolled already, as the device {device}."
    remedy = "If it was flashed anew, `argosy device revoke {device}`, then join again. Else one number is a false one."


class TooManyAttempts(ArgosyError):
    """One address asks too often."""

    code = "too-many-attempts"
    exit_code = 62
    fault = Fault.PEER
    template = "The coordinator refuses further attempts from this address for about {seconds} s."
    remedy = "Wait that long, then run `argosy-device join` again; check the token first."


class AlreadyEnrolled(ArgosyError):
    """The state directory holds an enrolment that a join would replace."""

    code = "already-enrolled"
    exit_code = 61
    fault = Fault.OPERATOR
    template = "{state_dir} already holds the device {device}, enrolled at {url}."
    remedy = "Nothing to do if that is right; to enrol it anew, run the same command with --force."


class OperatorKeyDiffers(ArgosyError):
    """A join names another operator's key than the one that the device has pinned."""

    code = "operator-key-differs"
    exit_code = 91
    fault = Fault.OPERATOR
    template = "This device trusts the fleet lists of the operator's key {pinned}, and the command names {given}."
    remedy = "If the operator has a new key, run the same command with --force; if not, ask where that file came from."


class DeviceNotFound(ArgosyError):
    """No device of that id or name."""

    code = "device-not-found"
    exit_code = 38
    fault = Fault.OPERATOR
    template = "There is no device {device}."
    remedy = "`argosy device list` shows those that are enrolled."


class CertificateInvalid(ArgosyError):
    """A certificate or key that cannot be used."""

    code = "certificate-invalid"
    exit_code = 39
    fault = Fault.OPERATOR
    template = "The certificate or key in {path} cannot be used: {why}."
    remedy = "Restore it from a backup, or enrol again with a new token."


class DeviceStateForbids(ArgosyError):
    """What an operator wants to do with a device does not fit its state."""

    code = "device-state-forbids"
    exit_code = 120
    fault = Fault.OPERATOR
    template = "The device {device} is {state}: there is nothing to {event}."
    remedy = "See `argosy device show {device}`. A request is approved or rejected, an enrolled device revoked."


class ApprovalPending(ArgosyError):
    """A device has asked to join, and no operator has decided."""

    code = "approval-pending"
    exit_code = 121
    fault = Fault.OPERATOR
    template = "The device {device} waits for an operator's approval."
    remedy = "Approve it with `argosy device approve {device}`, then run the same join command again."


class RequestExpired(ArgosyError):
    """No operator decided on a device's request in time."""

    code = "request-expired"
    exit_code = 122
    fault = Fault.OPERATOR
    template = "No operator decided in time whether the device {device} may join."
    remedy = "Make a new token with `argosy token create` and join with that."


class NameUnusable(ArgosyError):
    """A name or a tag that a device cannot be given."""

    code = "name-unusable"
    exit_code = 123
    fault = Fault.OPERATOR
    template = "The name {name!r} cannot be used: {why}."
    remedy = "Choose another one; `argosy device list` shows those that are taken."


class RenewalRefused(ArgosyError):
    """A certificate that the coordinator does not renew."""

    code = "renewal-refused"
    exit_code = 124
    fault = Fault.OPERATOR
    template = "The coordinator does not renew this device's certificate: {why}."
    remedy = "Enrol it anew: `argosy token create` on the coordinator, then `argosy-device join … --force` there."


class NoAuthority(ArgosyError):
    """A state directory without a certificate authority."""

    code = "no-authority"
    exit_code = 69
    fault = Fault.OPERATOR
    template = "There is no certificate authority in {folder}."
    remedy = "The coordinator makes it at its first start. Run this as the coordinator's user, or name its --state-dir."
