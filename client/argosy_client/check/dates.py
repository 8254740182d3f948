"""Judging the clock, and the device's certificate by it as far as it can be believed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from argosy_client.check.finding import Finding, Problem, Severity, good
from argosy_client.check.readings import Readings
from argosy_client.time_floor import ClockState

LEAST_LIFE = 0.2
"""The share of its life that a certificate has left when somebody should look: it is to be renewed long before."""

CLOCK_BEHIND = Problem(
    "clock-behind",
    Severity.WARNING,
    "The clock reads {wall}, and it is {floor} at the earliest.",
    "Let a time server be reached (`timedatectl set-ntp true`), or add a clock battery. Argosy works without; "
    "times in logs are wrong.",
)
CLOCK_UNSYNCHRONISED = Problem(
    "clock-unsynchronised",
    Severity.HINT,
    "The clock reads {wall}, and no time server keeps it right.",
    "`timedatectl set-ntp true`, if there is a time server to be reached. Until then no dates are judged by it.",
)
CERTIFICATE_EXPIRED = Problem(
    "certificate-expired",
    Severity.ERROR,
    "The device's certificate ended at {ends}.",
    "Start the daemon where it reaches the coordinator's port: it renews the certificate by itself, for 30 days after "
    "its end. Says its log `renewal-refused`: `argosy token create` there, then `argosy-device join … --force` here.",
)
CERTIFICATE_ENDING = Problem(
    "certificate-ending",
    Severity.WARNING,
    "The device's certificate ends at {ends}, and less than a fifth of its life is left.",
    "See in the device's log why it was not replaced, or enrol the board again with `argosy-device join … --force`.",
)
CERTIFICATE_UNJUDGED = Problem(
    "certificate-unjudged",
    Severity.HINT,
    "The device's certificate ends at {ends}; the clock cannot tell whether that is over.",
    "Set the clock, then check again. `argosy device show` on the coordinator tells it too.",
)

CLOCK = (CLOCK_BEHIND, CLOCK_UNSYNCHRONISED)
CERTIFICATE = (CERTIFICATE_EXPIRED, CERTIFICATE_ENDING, CERTIFICATE_UNJUDGED)


def clock(readings: Readings) -> Iterator[Finding]:
    """Does the board know what time it is?"""
    wall = _shown(readings.wall)
    if readings.clock is ClockState.BEHIND:
        yield CLOCK_BEHIND.found(wall=wall, floor=_shown(readings.floor))
    elif readings.clock is ClockState.UNSYNCHRONISED:
        yield CLOCK_UNSYNCHRONISED.found(wall=wall)
    else:
        yield good(f"{wall}, {readings.clock.value}")


def certificate(readings: Readings) -> Iterator[Finding]:
    """Is the device's certificate good for a while?

    What has surely passed is over by any clock; beyond that the wall clock decides if it can be believed.
    """
    life = readings.certificate
    if life is None:
        return
    ends, trusted = _shown(life.ends), readings.clock.trusted
    now = max(readings.floor, readings.wall) if trusted else readings.floor
    if now >= life.ends:
        yield CERTIFICATE_EXPIRED.found(ends=ends)
    elif not trusted:
        yield CERTIFICATE_UNJUDGED.found(ends=ends)
    elif life.ends - now < LEAST_LIFE * (life.ends - life.begins):
        yield CERTIFICATE_ENDING.found(ends=ends)
    else:
        yield good(f"ends {ends}, in {(life.ends - now).days} days")


def _shown(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
