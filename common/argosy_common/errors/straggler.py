"""Failures around devices that are slow, away, or one of several with the same data."""

from __future__ import annotations

from argosy_common.errors.base import ArgosyError, Fault


class CutOff(ArgosyError):
    """A device had not answered when its round ended, and the round did not need it."""

    code = "cut-off"
    exit_code = 93
    fault = Fault.NETWORK
    template = "The device {device} had not answered after {seconds} s, when the round ended without it."
    remedy = (
        "Nothing to do if that is rare; `argosy run explain` tells where its time went. Wait longer with --quorum 1.0 "
        "or --deadline SECONDS."
    )


class ShardCounted(ArgosyError):
    """Another board's answer for the same shard counted already."""

    code = "shard-counted"
    exit_code = 94
    fault = Fault.NETWORK
    template = "Shard {shard} of site {site} was counted already, from {by}, before {device} answered."
    remedy = "Nothing to do: boards that hold the same shard stand in for one another."


class SelectorUnknown(ArgosyError):
    """No such selector of devices."""

    code = "selector-unknown"
    exit_code = 95
    fault = Fault.OPERATOR
    template = "There is no selector of devices '{name}'."
    remedy = "Known are: {known}."


class AsyncUnsuitable(ArgosyError):
    """A run cannot be asynchronous together with something else that it asks for."""

    code = "async-unsuitable"
    exit_code = 96
    fault = Fault.OPERATOR
    template = "An asynchronous run does not go with {what}: {why}."
    remedy = "Leave one of the two out; `--straggler` ends rounds on time and goes with everything."
