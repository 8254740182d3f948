"""Failures of compressing updates and models (specs/codecs.md)."""

from __future__ import annotations

from argosy_common.errors.base import ArgosyError, Fault


class CodecUnknown(ArgosyError):
    """No codec of that name, or not with that parameter."""

    code = "codec-unknown"
    exit_code = 63
    fault = Fault.OPERATOR
    template = "There is no codec '{name}': {why}."
    remedy = "Known are {known}; a package may add its own through the entry point argosy.codecs."


class CodecUnsuitable(ArgosyError):
    """The codec exists and cannot do what it was chosen for."""

    code = "codec-unsuitable"
    exit_code = 64
    fault = Fault.OPERATOR
    template = "The codec '{codec}' cannot be used for {purpose}: {why}."
    remedy = "Choose another with --codec or --codec-down, or under [tool.argosy.codec] in the app's pyproject.toml."


class CodeMalformed(ArgosyError):
    """Bytes that are not what their codec makes: cut short, damaged, or of another codec."""

    code = "code-malformed"
    exit_code = 66
    fault = Fault.PEER
    template = "The compressed arrays from {peer} cannot be read as '{codec}': {why}."
    remedy = "This answer is left out. If it repeats, run the same version of Argosy on both ends."


class UpdateNotFinite(ArgosyError):
    """An update holds NaN or infinity."""

    code = "update-not-finite"
    exit_code = 67
    fault = Fault.OPERATOR
    template = "The update of the array '{array}' {where} holds {what}; it is not sent."
    remedy = "Training diverged there: lower the learning rate, clip gradients, or look at that device's data."


class ModelVersionMissing(ArgosyError):
    """A device was sent a change to a model that it does not hold."""

    code = "model-version-missing"
    exit_code = 68
    fault = Fault.PEER
    template = "The device {device} does not hold version {version} of the model, which the change it was sent is from."
    remedy = "Nothing: the coordinator sends the whole model next. If it repeats, the device's storage loses files."
