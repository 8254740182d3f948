"""Failures of a training run."""

from __future__ import annotations

from argosy_common.errors.base import ArgosyError, Fault


class AppDirectoryInvalid(ArgosyError):
    """The directory does not hold a Flower app."""

    code = "app-directory-invalid"
    exit_code = 50
    fault = Fault.OPERATOR
    template = "{path} is not a Flower app: {why}."
    remedy = "Name a directory whose pyproject.toml has [tool.flwr.app.components] with serverapp and clientapp."


class RunConfigInvalid(ArgosyError):
    """A configuration value that the app does not know or cannot use."""

    code = "run-config-invalid"
    exit_code = 51
    fault = Fault.OPERATOR
    template = "The run configuration {key} cannot be used: {why}."
    remedy = "The app knows: {known}."


class RunNotFound(ArgosyError):
    """No run of that number."""

    code = "run-not-found"
    exit_code = 52
    fault = Fault.OPERATOR
    template = "There is no run {run}."
    remedy = "`argosy run list` shows them."


class RoundNotFound(ArgosyError):
    """A run has no round of that number."""

    code = "round-not-found"
    exit_code = 97
    fault = Fault.OPERATOR
    template = "Run {run} has no round {round}."
    remedy = "Rounds that it has: {known}."


class TooFewDevices(ArgosyError):
    """The strategy wants more devices than are there."""

    code = "too-few-devices"
    exit_code = 53
    fault = Fault.OPERATOR
    template = "The strategy wants {wanted} devices and only {online} are online after {waited} s ({devices})."
    remedy = "Bring devices up (`argosy device list`), or lower the strategy's min_available_nodes or its fraction."


class NoValidReply(ArgosyError):
    """Not one device answered a phase with a usable reply."""

    code = "no-valid-reply"
    exit_code = 54
    fault = Fault.OPERATOR
    template = "No device gave a valid reply to {phase} in round {round}: {causes}."
    remedy = "Correct the first cause named; the model is that of the round before."


class ArraysChanged(ArgosyError):
    """A reply's arrays do not have the shapes that were sent."""

    code = "arrays-changed"
    exit_code = 55
    fault = Fault.OPERATOR
    template = "The device {device} returned the array '{array}' as {found}; it was sent as {expected}."
    remedy = (
        "A client app must return the arrays of the model it received; check that every device runs the same model."
    )


class ServerAppFailed(ArgosyError):
    """The server app raised or its process died."""

    code = "server-app-failed"
    exit_code = 56
    fault = Fault.OPERATOR
    template = "The server app stopped: {why}."
    remedy = "`argosy run logs {run}` has the traceback."


class DeviceLost(ArgosyError):
    """A device went away and did not come back within its grace."""

    code = "device-lost"
    exit_code = 58
    fault = Fault.NETWORK
    template = "The device {device} went away and did not come back within {grace_s} s."
    remedy = "Check its power and its network; it takes part again as soon as it is back."


class ReplyTimedOut(ArgosyError):
    """A device did not answer by the round's deadline."""

    code = "reply-timed-out"
    exit_code = 59
    fault = Fault.NETWORK
    template = "The device {device} did not answer within {seconds} s."
    remedy = "See `argosy device show {device}`; give it less work, or the strategy a longer timeout."


class RunInterrupted(ArgosyError):
    """The coordinator stopped while the run was under way."""

    code = "run-interrupted"
    exit_code = 57
    fault = Fault.OPERATOR
    template = "The coordinator stopped while run {run} was under way."
    remedy = "Start it again with `argosy run start`."


class RunStopped(ArgosyError):
    """An operator stopped the run before it was finished."""

    code = "run-stopped"
    exit_code = 60
    fault = Fault.OPERATOR
    template = "Run {run} was stopped before it finished."
    remedy = "`argosy run show {run}` has what it reached; start it again with `argosy run start`."
