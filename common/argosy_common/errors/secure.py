"""Refusals and failures of secure aggregation (specs/secure-aggregation.md). None of them reveals an update."""

from __future__ import annotations

from argosy_common.errors.base import ArgosyError, Fault


class SecureUnsuitable(ArgosyError):
    """What the run asks for cannot be had under secure aggregation."""

    code = "secure-unsuitable"
    exit_code = 72
    fault = Fault.OPERATOR
    template = "Secure aggregation cannot be used with {what}: {why}."
    remedy = "Leave out --secure, or change what is named; docs/secure-aggregation.md says what works under it."


class SecureTooFewDevices(ArgosyError):
    """Too few devices for a group, or too few updates for a sum."""

    code = "secure-too-few-devices"
    exit_code = 73
    fault = Fault.OPERATOR
    template = "A secure run needs at least {needed} {what}; there are {found}."
    remedy = "Bring more devices online, or run without --secure. Nothing was revealed."


class SecureParametersRefused(ArgosyError):
    """A device was sent parameters that it does not accept."""

    code = "secure-parameters-refused"
    exit_code = 74
    fault = Fault.PEER
    template = "The device refuses the secure round's parameters: {why}."
    remedy = "Run the same version of Argosy on both ends. If you do, somebody tampers with messages."


class PeerUnlisted(ArgosyError):
    """A device that the operator's fleet list does not name was to take part in a secure round."""

    code = "peer-unlisted"
    exit_code = 75
    fault = Fault.OPERATOR
    template = "The device {peer} was to take part in a secure round and is not on the fleet list of version {version}."
    remedy = "If you enrolled it, sign a new list with `argosy fleet sign`; if you did not, somebody made it up."


class RosterInvalid(ArgosyError):
    """The roster of a secure round does not hold."""

    code = "roster-invalid"
    exit_code = 76
    fault = Fault.PEER
    template = "The secure round's roster is refused: {why}."
    remedy = "Nothing was sent. If it repeats, somebody tampers with the coordinator's messages."


class InstructionDiffers(ArgosyError):
    """A device was given another instruction than the one that the round is bound to."""

    code = "instruction-differs"
    exit_code = 77
    fault = Fault.PEER
    template = "The instruction differs from the one that the secure round was announced with: {why}."
    remedy = "All devices of a secure round get the same. Nothing was sent. If it repeats, look at the coordinator."


class SecondUpdateRefused(ArgosyError):
    """A device was asked for a second masked update of one round."""

    code = "secure-second-update-refused"
    exit_code = 78
    fault = Fault.PEER
    template = "The device has sent its masked update of round {round} already, or of a later one."
    remedy = "Nothing: a second one could reveal its update. Start a new run if rounds were repeated."


class SecureRetryRefused(ArgosyError):
    """A round was tried again against the rule of attempts."""

    code = "secure-retry-refused"
    exit_code = 79
    fault = Fault.PEER
    template = "The device refuses to run the same instruction again: {why}."
    remedy = "Start a run with another configuration or model; `argosy fleet undecided` says what may be overridden."


class SecureSetRefused(ArgosyError):
    """A holder refuses the set of clients that it is asked to unmask."""

    code = "secure-set-refused"
    exit_code = 80
    fault = Fault.PEER
    template = "The holder refuses the set of updates to be summed: {why}."
    remedy = "Nothing was revealed. The next round goes on; if it repeats, look at the coordinator."


class SecureBoxTampered(ArgosyError):
    """A box with a share is not the one that its client signed."""

    code = "secure-box-tampered"
    exit_code = 81
    fault = Fault.PEER
    template = "The share of the client {client} for the holder {holder} is not the one that the client signed."
    remedy = "Nothing was revealed. It was changed between the two; if it repeats, look at the coordinator."


class SecureMessageMalformed(ArgosyError):
    """A message of the protocol cannot be read."""

    code = "secure-message-malformed"
    exit_code = 82
    fault = Fault.PEER
    template = "A secure aggregation message from {peer} is malformed: {why}."
    remedy = "It is left out. If it repeats, run the same version of Argosy on both ends."


class SecureSignatureInvalid(ArgosyError):
    """A signature does not hold."""

    code = "secure-signature-invalid"
    exit_code = 83
    fault = Fault.PEER
    template = "The signature of {peer} under {what} does not hold."
    remedy = "It is left out. If it repeats, that device's identity key or its messages were changed on the way."


class PrekeyUnknown(ArgosyError):
    """A holder does not have the key that its box is sealed to."""

    code = "prekey-unknown"
    exit_code = 84
    fault = Fault.PEER
    template = "The device {device} does not hold the key of this secure round; it was used, or lost with its journal."
    remedy = "Nothing: others finish the round. New keys are fetched for the next one."


class SumUnrecoverable(ArgosyError):
    """Too few holders answered to take the mask off."""

    code = "secure-sum-unrecoverable"
    exit_code = 85
    fault = Fault.NETWORK
    template = "The sum of round {round} stays masked: {found} of the {needed} holders needed {did}; {causes}."
    remedy = "Nothing was revealed, and the next round goes on. Bring those devices back."


class SumInconsistent(ArgosyError):
    """The holders' answers contradict one another more than can be put right."""

    code = "secure-sum-inconsistent"
    exit_code = 86
    fault = Fault.PEER
    template = "The secure sum of round {round} is thrown away: the {found} holders' answers contradict one another."
    remedy = "More holders sent wrong sums than can be put right, or a client wrong shares. The next round goes on."


class FleetListInvalid(ArgosyError):
    """The fleet list is not one, or not signed by the operator's key."""

    code = "fleet-list-invalid"
    exit_code = 87
    fault = Fault.OPERATOR
    template = "The fleet list {where} is not valid: {why}."
    remedy = "Sign it with `argosy fleet sign` and the operator's key that the devices pinned when they joined."


class FleetListOutdated(ArgosyError):
    """A fleet list does not follow the one that is known: an older one, another of its version, another branch."""

    code = "fleet-list-outdated"
    exit_code = 88
    fault = Fault.PEER
    template = "The fleet list of version {found} is refused: {why}."
    remedy = "Sign the successor of the newest list, and put it on the coordinator with `argosy fleet install`."


class OverrideInvalid(ArgosyError):
    """An override of an undecided attempt is not one, or not to be had."""

    code = "secure-override-invalid"
    exit_code = 92
    fault = Fault.OPERATOR
    template = "The override {where} is not valid: {why}."
    remedy = "`argosy fleet undecided` lists what can be overridden, `argosy fleet override` signs it."


class SecureRequired(ArgosyError):
    """A device that takes part in secure runs only was sent a plain instruction."""

    code = "secure-required"
    exit_code = 89
    fault = Fault.OPERATOR
    template = "The device takes part in secure runs only; it was asked for {what}."
    remedy = 'Start the run with --secure, or set secure = "allowed" in the device\'s configuration.'


class SecureStateLost(ArgosyError):
    """A device's journal of secure rounds cannot be read or written."""

    code = "secure-state-lost"
    exit_code = 90
    fault = Fault.OPERATOR
    template = "The device's journal of secure rounds at {path} cannot be used: {why}."
    remedy = "It joins no secure round until that is mended. Never restore it from a copy: enrol the device anew."
