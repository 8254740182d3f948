"""Failures on a device: its worker, the app it hosts, and the instructions it takes."""

from __future__ import annotations

from argosy_common.errors.base import ArgosyError, Fault


class AppBundleInvalid(ArgosyError):
    """The app's archive is broken, or not what its digest says."""

    code = "app-bundle-invalid"
    exit_code = 40
    fault = Fault.PEER
    template = "The app bundle {digest} cannot be used: {why}."
    remedy = "Start the run again from the app's directory; if it repeats, check both ends' disks."


class AppImportFailed(ArgosyError):
    """The client app or server app does not import."""

    code = "app-import-failed"
    exit_code = 41
    fault = Fault.OPERATOR
    template = "The app {component} does not import: {why}."
    remedy = "Install what it needs where it runs, or correct the app; `argosy run logs` has the traceback."


class AppRaised(ArgosyError):
    """The client app raised."""

    code = "app-raised"
    exit_code = 42
    fault = Fault.OPERATOR
    template = "The client app raised {why}."
    remedy = "Correct the app; the traceback is in the device's log and in `argosy run logs`."


class WorkerDied(ArgosyError):
    """The worker process ended in the middle of an instruction."""

    code = "worker-died"
    exit_code = 43
    fault = Fault.OPERATOR
    template = "The worker died while it ran the app: {why}."
    remedy = "Look for the kernel's out-of-memory killer or a crash in a native library; a new worker is already up."


class WorkerOutOfMemory(ArgosyError):
    """The worker used more memory than it may."""

    code = "worker-out-of-memory"
    exit_code = 44
    fault = Fault.OPERATOR
    template = "The worker used {used_mb} MB, more than its limit of {limit_mb} MB, and was stopped."
    remedy = "Make the model or the batches smaller, or raise worker.memory_mb in the device's settings."


class WorkerTimedOut(ArgosyError):
    """The worker did not finish in its time."""

    code = "worker-timed-out"
    exit_code = 45
    fault = Fault.OPERATOR
    template = "The worker ran longer than {limit_s} s on one instruction and was stopped."
    remedy = "Give the device less data or fewer epochs a round, or raise worker.time_s in the device's settings."


class ReplyInvalid(ArgosyError):
    """The client app returned something that is not a reply."""

    code = "reply-invalid"
    exit_code = 46
    fault = Fault.OPERATOR
    template = "The client app's reply cannot be sent: {why}."
    remedy = "A client app returns Message(RecordDict, reply_to=message)."


class InstructionExpired(ArgosyError):
    """An instruction arrived, or was reached, after its deadline."""

    code = "instruction-expired"
    exit_code = 47
    fault = Fault.NETWORK
    template = "The instruction {message} expired before the device could run it."
    remedy = "Nothing to do: the round went on without it."


class NotEnrolled(ArgosyError):
    """The device has no identity or certificate yet."""

    code = "not-enrolled"
    exit_code = 48
    fault = Fault.OPERATOR
    template = "This device is not enrolled: {state_dir} holds no certificate."
    remedy = "Run `argosy-device join` with a token from `argosy token create`."


class InstructionCancelled(ArgosyError):
    """An instruction was given up because its run is over."""

    code = "instruction-cancelled"
    exit_code = 49
    fault = Fault.OPERATOR
    template = "The instruction {message} was cancelled."
    remedy = "Nothing to do: its run is over."


class CheckWarned(ArgosyError):
    """`argosy-device check` found something worth a look."""

    code = "check-warned"
    exit_code = 110
    fault = Fault.OPERATOR
    template = "This board can take part, with reservations: {codes}."
    remedy = 'Each finding says what to do; docs/operating.md, "Checking a board", lists them all.'


class CheckFailed(ArgosyError):
    """`argosy-device check` found why this board cannot take part, or not safely."""

    code = "check-failed"
    exit_code = 111
    fault = Fault.OPERATOR
    template = "This board cannot take part as it is: {codes}."
    remedy = 'Each finding says what to do; docs/operating.md, "Checking a board", lists them all.'
