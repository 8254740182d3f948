"""What the system tests ask of a fleet."""

from __future__ import annotations

from typing import Any

from argosy_server.local_fleet import LocalFleet


def data_of(fleet: LocalFleet, run: int, name: str, **wanted: object) -> list[dict[str, Any]]:
    """Return the data of a run's events of one name whose fields have these values."""
    return [
        event["data"]
        for event in fleet.events(run)
        if event["name"] == name and all(event["data"].get(key) == value for key, value in wanted.items())
    ]
