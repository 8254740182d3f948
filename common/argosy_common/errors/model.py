"""Failures of models: their artefacts, how they roll out, and how boards run them."""

from __future__ import annotations

from argosy_common.errors.base import ArgosyError, Fault


class ModelError(ArgosyError, family=True):
    """What all of these share: their exit code."""

    exit_code = 125


class ArtefactInvalid(ModelError):
    """A part of a model's artefact that cannot be used."""

    code = "artefact-invalid"
    fault = Fault.PEER
    template = "The model's {what} cannot be used: {why}."
    remedy = "Nothing was changed: the model before goes on. Export the model again; `argosy model show` has its parts."


class SignatureInvalid(ModelError):
    """A model, or a rollback, that the pinned authority does not vouch for."""

    code = "signature-invalid"
    fault = Fault.PEER
    template = "The model's signature does not hold: {why}."
    remedy = "Nothing was changed. If the coordinator was not replaced, somebody else sent this; see the audit log."


class ModelMissing(ModelError):
    """A model, or a version of it, that is not on this board."""

    code = "model-missing"
    fault = Fault.OPERATOR
    template = "The model {model} is not on this board."
    remedy = "`argosy-device models` shows those that are; `argosy model rollout` brings one here."


class NoBackend(ModelError):
    """Nothing on this board runs a model rightly."""

    code = "no-backend"
    fault = Fault.OPERATOR
    template = "Nothing on this board runs the model {model}: {why}."
    remedy = "`argosy-device backends` shows what each needs; `pip install 'argosy[inference]'` brings the usual one."


class InputInvalid(ModelError):
    """An input that a model does not take."""

    code = "input-invalid"
    fault = Fault.OPERATOR
    template = "The model {model} does not take this input: {why}."
    remedy = "`argosy-device models` shows the shape that it takes."


class ModelBusy(ModelError):
    """More requests than the board can answer."""

    code = "model-busy"
    fault = Fault.PEER
    template = "The model {model} has {waiting} requests waiting, and takes no more."
    remedy = "Ask again a little later, or less often; `argosy-device models` shows how long one takes."


class DeadlinePassed(ModelError):
    """A request whose answer would have come too late."""

    code = "deadline-passed"
    fault = Fault.PEER
    template = "The model {model} could not answer within {deadline_ms} ms."
    remedy = "Give it more time, or ask less often; `argosy-device models` shows how long one takes."


class InferenceUnreachable(ModelError):
    """No inference process answers."""

    code = "inference-unreachable"
    fault = Fault.OPERATOR
    template = "Nothing serves models at {path}: {why}."
    remedy = "Is argosy-device running, with [inference] in its settings? `argosy-device status` tells."
