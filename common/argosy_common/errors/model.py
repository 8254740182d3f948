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
