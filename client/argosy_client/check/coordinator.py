"""Judging the way to the coordinator: names, ports, certificates, and what the broker lets the board do."""

from __future__ import annotations

from collections.abc import Iterator

from argosy_client.check.finding import Finding, Problem, Severity, good
from argosy_client.check.network import Route, Step
from argosy_client.check.readings import Readings

NAME_UNRESOLVED = Problem(
    "name-unresolved",
    Severity.ERROR,
    "No address of the coordinator has a name that can be resolved: {names}.",
    "Check the board's DNS (`resolvectl status`), or set `broker.advertise` and `enrolment.advertise` on the "
    "coordinator to addresses.",
)
SERVICE_UNREACHABLE = Problem(
    "service-unreachable",
    Severity.WARNING,
    "The coordinator's own service at {address} does not answer: {why}.",
    "If the port is closed on purpose, nothing: large models come through the broker. Otherwise open it in the "
    "firewall; joining needs it.",
)
JOIN_UNREACHABLE = Problem(
    "join-unreachable",
    Severity.ERROR,
    "The coordinator at {address} does not answer: {why}.",
    "Check the address, that the coordinator runs, and the firewall; the board cannot join without it.",
)
SERVICE_UNTRUSTED = Problem(
    "service-untrusted",
    Severity.ERROR,
    "Who answers at {address} is not vouched for by this board's authority: {why}.",
    "If the coordinator was made anew, enrol the board again with --force. If not, somebody is in between.",
)
PIN_DIFFERS = Problem(
    "pin-differs",
    Severity.ERROR,
    "The coordinator at {address} has the authority {found}, and {expected} is expected.",
    "Compare the pin with that of `argosy token create`. If it is right, somebody is in between: do not join here.",
)
BROKER_UNREACHABLE = Problem(
    "broker-unreachable",
    Severity.ERROR,
    "The broker does not answer at {address}: {why}.",
    "Check that the coordinator runs (`argosy doctor` there) and that the firewall lets the board through to the port.",
)
BROKER_UNTRUSTED = Problem(
    "broker-untrusted",
    Severity.ERROR,
    "The broker at {address} shows a certificate that this board's authority does not vouch for: {why}.",
    "On an external broker, install the certificate from the coordinator's `ca/` again. Otherwise the coordinator was "
    "made anew: enrol the board again with --force.",
)
BROKER_REFUSES = Problem(
    "broker-refuses",
    Severity.ERROR,
    "The broker does not let this device in: {why}.",
    "See `argosy device show` on the coordinator: its certificate may be over, or the device shut out.",
)
ACCESS_DENIED = Problem(
    "access-denied",
    Severity.ERROR,
    "The broker does not let this device speak in its own name.",
    "The broker's access list is not the one in docs/operating.md, or it does not take the certificate's name as the "
    "client's.",
)
ACCESS_OPEN = Problem(
    "access-open",
    Severity.ERROR,
    "The broker keeps devices not apart: this one could {what}.",
    "Install mosquitto on the coordinator; on an external broker, set the access list of docs/operating.md.",
)
ACCESS_UNTRIED = Problem(
    "access-untried",
    Severity.HINT,
    "The daemon runs (process {pid}): what the broker allows was not tried, since that would break its connection.",
    "Stop the daemon and check again, if that is what you want to know.",
)

NAMES = (NAME_UNRESOLVED,)
SERVICE = (SERVICE_UNREACHABLE, JOIN_UNREACHABLE, SERVICE_UNTRUSTED, PIN_DIFFERS)
BROKER = (BROKER_UNREACHABLE, BROKER_UNTRUSTED)
ACCESS = (BROKER_REFUSES, ACCESS_DENIED, ACCESS_OPEN, ACCESS_UNTRIED)


def names(readings: Readings) -> Iterator[Finding]:
    """Can the coordinator's names be resolved? One of them is enough."""
    routes = [*([readings.service.route] if readings.service else []), *readings.broker]
    known = sorted({route.host for route in routes if route.step > Step.NAME})
    if known:
        yield good(", ".join(known))
    elif routes:
        yield NAME_UNRESOLVED.found(names=", ".join(sorted({route.host for route in routes})))


def service(readings: Readings) -> Iterator[Finding]:
    """Does the enrolment service answer, and is it the right one?"""
    found = readings.service
    if found is None or found.route.step is Step.NAME:
        return
    joined = readings.enrolment
    expected = readings.wanted.pin or (joined.pin if joined else "")
    address, why = found.route.address, found.route.why
    if found.pin and expected and found.pin != expected:
        yield PIN_DIFFERS.found(address=address, found=found.pin, expected=expected)
    elif found.route.step is Step.TRUST:
        yield SERVICE_UNTRUSTED.found(address=address, why=why)
    elif not found.route.good:
        yield (SERVICE_UNREACHABLE if joined else JOIN_UNREACHABLE).found(address=address, why=why)
    else:
        yield good(f"{address} answers, {'with the pinned authority' if expected else f'authority {found.pin}'}")


def broker(readings: Readings) -> Iterator[Finding]:
    """Does the broker answer at one of its addresses, with a certificate of our authority?"""
    routes = [route for route in readings.broker if route.step > Step.NAME]
    if not routes:
        return
    best = max(routes, key=_progress)
    if best.good:
        yield good(f"{best.address} answers, with a certificate of the pinned authority")
    else:
        problem = BROKER_UNTRUSTED if best.step is Step.TRUST else BROKER_UNREACHABLE
        yield problem.found(address=best.address, why=best.why)


def access(readings: Readings) -> Iterator[Finding]:
    """Does the broker keep devices apart, and let this one speak?"""
    tried = readings.access
    if tried is None:
        if readings.pid is not None and readings.enrolment is not None:
            yield ACCESS_UNTRIED.found(pid=readings.pid)
        return
    if tried.refused:
        yield BROKER_REFUSES.found(why=tried.refused)
        return
    if not tried.own:
        yield ACCESS_DENIED.found()
    if tried.others or tried.overheard:
        could = ["speak for others"] * tried.others + ["hear others"] * bool(tried.overheard)
        yield ACCESS_OPEN.found(what=" and ".join(could))
    elif tried.own:
        yield good("this device can speak for itself, and for nobody else")


def _progress(route: Route) -> Step:
    return route.step
