"""Where a device that has joined finds its coordinator: the broker, and the port where it joined."""

from __future__ import annotations

from urllib.parse import urlsplit

from argosy_client.identity import Enrolment
from argosy_common.enrolment import DEFAULT_PORT
from argosy_common.link import LinkSettings


def link_settings(enrolment: Enrolment) -> LinkSettings:
    """Where the broker may be: first where the coordinator was joined at, which this board evidently reaches.

    The coordinator knows its own names and addresses, but not which of them the board can resolve or route to. A wrong
    one costs an attempt and no trust: the broker must show a certificate of our authority.
    """
    joined_at = urlsplit(enrolment.url).hostname
    known = [(host, port) for host, port in enrolment.brokers]
    guess = [(joined_at, known[0][1])] if joined_at else []
    (host, port), *others = dict.fromkeys([*guess, *known])
    return LinkSettings(
        host=host, port=port, client_id=enrolment.device, tls=enrolment.tls_files(), elsewhere=tuple(others)
    )


def joined_at(enrolment: Enrolment) -> tuple[str, int] | None:
    """Return where this device joined: the coordinator's own port, which it evidently reaches."""
    parts = urlsplit(enrolment.url)
    return (parts.hostname, parts.port or DEFAULT_PORT) if parts.hostname else None
