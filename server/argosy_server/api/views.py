"""The JSON form of the store's rows: the admin API's public contract, one line a field.

Times are ISO 8601 in UTC. Secrets, keys and certificates are not among the fields.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from argosy_common.artefact.sketch import DRIFTING
from argosy_common.secure_ledger import Undecided
from argosy_common.x509 import fingerprint
from argosy_server.fleet_lists import Installed
from argosy_server.store import AuditRow, DeviceRow, DeviceState, EventRow, RunRow, TokenRow

View = dict[str, object]


def device_view(row: DeviceRow, presence: Mapping[str, object], drift: Mapping[str, float]) -> View:
    """Return a device with its presence, and how far what its models see is from what they were trained on."""
    return {
        "device": row.device,
        "name": row.name,
        "site": row.site,
        "tags": row.tags,
        "state": str(row.state),
        "version": row.version,
        "machine": row.machine,
        "boot": row.boot,
        "inventory": row.inventory,
        "enrolled_at": _iso(row.enrolled_at),
        "last_seen_at": _iso(row.last_seen_at),
        "certificate_ends_at": _iso(row.not_after) if row.certificate_pem else None,
        "request_ends_at": _iso(row.request_ends_at),
        "presence": dict(presence),
        "drift": dict(drift),
        "drifting": any(distance >= DRIFTING for distance in drift.values()),
    }


def fleet_list_view(installed: Installed | None, devices: Sequence[DeviceRow]) -> View:
    """Return the fleet list in force, null where there is none, and this coordinator's devices.

    Fingerprints and digests are SHA-256 in hexadecimal.
    """
    identities = {row.device: hashlib.sha256(row.identity_public).digest() for row in devices}
    enrolled = {identities[row.device] for row in devices if row.state is DeviceState.ENROLLED}
    return {
        "list": _signed_view(installed, enrolled) if installed else None,
        "devices": [
            {
                "device": row.device,
                "name": row.name,
                "fingerprint": identities[row.device].hex(),
                "enrolled": identities[row.device] in enrolled,
                "listed": installed is not None and installed.fleet.lists(identities[row.device]),
            }
            for row in devices
        ],
    }


def _signed_view(installed: Installed, enrolled: set[bytes]) -> View:
    fleet = installed.fleet
    return {
        "version": fleet.version,
        "previous": fleet.previous.hex() if fleet.previous else None,
        "digest": fleet.digest.hex(),
        "created": fleet.created,
        "operator": fingerprint(installed.operator).hex(),
        "members": [
            {
                "device": member.device,
                "name": member.name,
                "fingerprint": member.fingerprint.hex(),
                "enrolled": member.fingerprint in enrolled,
            }
            for member in fleet.members
        ],
    }


def undecided_view(found: Sequence[Undecided], installed: Installed | None, begun: Sequence[datetime]) -> View:
    """Return undecided attempts; `begun` tells when the secure runs that are under way began."""
    return {
        "operator": fingerprint(installed.operator).hex() if installed else None,
        "attempts": [
            {
                "sid": it.attempt.sid.hex(),
                "at": datetime.fromtimestamp(it.attempt.at, UTC).isoformat(),
                "devices": len(it.attempt.members),
                "handed_over": bool(it.attempt.root),
                "overridden": it.overridden,
                "may_be_under_way": any(it.attempt.at >= int(at.timestamp()) for at in begun),
            }
            for it in found
        ],
    }


def run_view(row: RunRow) -> View:
    """Return a run."""
    return {
        "run": row.id,
        "app": row.app_name,
        "app_digest": row.app_digest,
        "app_size": row.app_size,
        "server_app": row.server_app,
        "client_app": row.client_app,
        "config": row.run_config,
        "options": row.options,
        "status": str(row.status),
        "error": row.error,
        "strategy": row.strategy,
        "rounds": row.rounds,
        "final_model": row.final_model,
        "created_at": _iso(row.created_at),
        "started_at": _iso(row.started_at),
        "finished_at": _iso(row.finished_at),
    }


def token_view(row: TokenRow) -> View:
    """Return a join token without its secret."""
    return {
        "id": row.id,
        "site": row.site,
        "uses": row.uses,
        "used": row.used,
        "tags": row.tags,
        "approve": row.approve,
        "created_at": _iso(row.created_at),
        "expires_at": _iso(row.expires_at),
    }


def event_view(row: EventRow) -> View:
    """Return an event of a run."""
    return {"seq": row.seq, "run": row.run, "at": _iso(row.at), "name": row.name, "data": row.data}


def audit_view(row: AuditRow) -> View:
    """Return an entry of the audit log."""
    return {
        "at": _iso(row.at),
        "actor": row.actor,
        "action": row.action,
        "subject": row.subject,
        "detail": row.detail,
    }


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="milliseconds")
