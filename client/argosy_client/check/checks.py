"""The list of the checks, in the order in which a person reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from argosy_client.check import board, coordinator, dates, state
from argosy_client.check.finding import Finding, Problem
from argosy_client.check.readings import Readings


@dataclass(frozen=True)
class Check:
    """One check: a pure function of the readings, and the problems that it may find. It finds nothing where it does
    not apply.
    """

    name: str
    judge: Callable[[Readings], Iterator[Finding]]
    problems: tuple[Problem, ...]


CHECKS = (
    Check("enrolment", state.enrolment, state.ENROLMENT),
    Check("clock", dates.clock, dates.CLOCK),
    Check("certificate", dates.certificate, dates.CERTIFICATE),
    Check("names", coordinator.names, coordinator.NAMES),
    Check("service", coordinator.service, coordinator.SERVICE),
    Check("broker", coordinator.broker, coordinator.BROKER),
    Check("access", coordinator.access, coordinator.ACCESS),
    Check("state directory", state.directory, state.DIRECTORY),
    Check("disk", state.disk, state.DISK),
    Check("memory limit", board.memory, board.MEMORY),
    Check("accelerators", board.accelerators, board.ACCELERATORS),
    Check("software", board.software, board.SOFTWARE),
)


def examine(readings: Readings) -> list[tuple[str, Finding]]:
    """Return what every check finds, with its name."""
    return [(check.name, finding) for check in CHECKS for finding in check.judge(readings)]
