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


class ModelNotFound(ModelError):
    """No version of a model under that reference."""

    code = "model-not-found"
    fault = Fault.OPERATOR
    template = "There is no model '{model}'."
    remedy = "`argosy model list` shows them; name one as NAME, for its newest version, or as NAME:VERSION."


class ModelSettingsInvalid(ModelError):
    """What an app's pyproject.toml says of its model cannot be meant."""

    code = "model-settings-invalid"
    fault = Fault.OPERATOR
    template = "[tool.argosy.model] in the app's pyproject.toml cannot be used: {why}."
    remedy = "docs/models.md has every key with an example. Correct it and start the run again."


class ModelExportFailed(ModelError):
    """The app's hook gave no model."""

    code = "model-export-failed"
    fault = Fault.OPERATOR
    template = "The app's export hook gave no model: {why}."
    remedy = "The run and its final model are not touched. `argosy run logs` has what the hook said; correct the app."


class ModelExportTimeout(ModelError):
    """The app's hook did not come to an end."""

    code = "model-export-timeout"
    fault = Fault.OPERATOR
    template = "The app's export hook had not finished after {seconds} s, and was ended."
    remedy = "If it only needs longer, set time-limit-s in [tool.argosy.model] of the app; else `argosy run logs`."


class ExportToolsMissing(ModelError):
    """What makes or checks an ONNX file is not installed where that is to be done."""

    code = "export-tools-missing"
    fault = Fault.OPERATOR
    template = "A model cannot be exported or compared here, since {package} is not installed."
    remedy = "On this machine, in Argosy's environment: pip install 'argosy[inference,export]'"


class CutToolsMissing(ModelError):
    """What cuts an ONNX file in two is not installed where that is to be done."""

    code = "cut-tools-missing"
    fault = Fault.OPERATOR
    template = "A model cannot be cut in two here, since {package} is not installed."
    remedy = "On this machine, in Argosy's environment: pip install 'argosy[inference,export]'"


class CutImpossible(ModelError):
    """A model that cannot be run in the parts that were asked for."""

    code = "cut-impossible"
    fault = Fault.OPERATOR
    template = "The model cannot be cut at {tensor}: {why}."
    remedy = "`argosy-device plan` names the places where a model can be cut."


class OffloadRefused(ModelError):
    """The coordinator does not run models for this device."""

    code = "offload-refused"
    fault = Fault.OPERATOR
    template = "The coordinator does not run models for this device: {why}."
    remedy = "The device runs them itself. `inference.enabled` in the coordinator's settings; docs/inference.md."


class OffloadUnavailable(ModelError):
    """The coordinator would run a model for a device, and cannot."""

    code = "offload-unavailable"
    fault = Fault.NETWORK
    template = "The coordinator cannot run {model} now: {why}."
    remedy = "The device runs it itself, and tries again later. See the coordinator's log if this goes on."


class OnnxRefused(ModelError):
    """An ONNX file that no board could use."""

    code = "onnx-refused"
    fault = Fault.OPERATOR
    template = "The exported file is not a model that boards can run: {why}."
    remedy = "Correct the app's export hook; docs/models.md says what a board needs of a model."


class ModelOutdated(ModelError):
    """A version lower than the one in force, without the coordinator's word that boards may go back."""

    code = "model-outdated"
    fault = Fault.PEER
    template = "Version {found} of {name} was refused: {known} is in force, and no signed rollback came with it."
    remedy = "Nothing was changed. Go back with `argosy model rollback`; if nobody rolled it out, somebody replays it."


class ModelMisfit(ModelError):
    """A version that this board could not load."""

    code = "model-misfit"
    fault = Fault.PEER
    template = "{model} cannot be used on this board: {why}."
    remedy = "The version before goes on. `argosy model status` shows which boards refuse it, and each one's reason."


class ModelUnsteady(ModelError):
    """A version that was in force and did not keep what was asked of it."""

    code = "model-unsteady"
    fault = Fault.PEER
    template = "{model} was put out of force on this board: {why}."
    remedy = "The version before goes on. `argosy model status` shows how other boards fare with it."


class ModelWithdrawn(ModelError):
    """A version that the coordinator took back."""

    code = "model-withdrawn"
    fault = Fault.OPERATOR
    template = "{model} was withdrawn by the coordinator, and there is no version before it."
    remedy = "Roll out another version with `argosy model rollout`; its rollout's `status` says why it ended."


class RolloutNotFound(ModelError):
    """No rollout of that number, and none of a model of that name."""

    code = "rollout-not-found"
    fault = Fault.OPERATOR
    template = "There is no rollout '{rollout}'."
    remedy = "`argosy model rollouts` lists them; name one by its number, or the latest of a model by the model's name."


class RolloutUnderWay(ModelError):
    """A model can only roll out one version at a time."""

    code = "rollout-under-way"
    fault = Fault.OPERATOR
    template = "Rollout {rollout} of {model} is {state}."
    remedy = "Wait for its end, or end it with `argosy model stop {rollout}`; then start the next one."


class RolloutUnsuitable(ModelError):
    """A rollout that cannot be meant, or that nothing could come of."""

    code = "rollout-unsuitable"
    fault = Fault.OPERATOR
    template = "{model} cannot be rolled out so: {why}."
    remedy = "Nothing was sent. `argosy model rollout --help` has examples, `argosy device list` the fleet."


class RolloutStateForbids(ModelError):
    """An operator's wish that the rollout's state does not allow."""

    code = "rollout-state-forbids"
    fault = Fault.OPERATOR
    template = "Rollout {rollout} is {state}, so it cannot {verb}."
    remedy = "`argosy model status {rollout}` shows where it stands; docs/state-machines.md what may follow."


class RolloutRolledBack(ModelError):
    """A rollout whose version was taken back."""

    code = "rollout-rolled-back"
    fault = Fault.OPERATOR
    template = "{model} was rolled back: {why}."
    remedy = "The boards are back at the version before. `argosy model status {rollout}` shows each one's reason."
