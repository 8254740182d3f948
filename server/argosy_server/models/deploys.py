"""The messages that a rollout sends, made of versions in the registry: what to put in force, or out of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from argosy_common import x509
from argosy_common.artefact.manifest import Manifest
from argosy_common.artefact.signature import Purpose, Signature, sign
from argosy_common.errors import RolloutUnsuitable
from argosy_common.wire.bodies import MAX_MANIFEST, Deploy, Withdraw
from argosy_server.models.rollout import GOING_BACK, Rollout
from argosy_server.store import ModelRow, Store

LONGEST_REPORT_S = 30.0
"""Between two reports of a device in probation."""


@dataclass(frozen=True)
class _Version:
    """What is sent of a version."""

    row: ModelRow
    digests: frozenset[bytes]


class Deploys:
    """Makes messages. `signer` returns the key that signs models, and its chain."""

    def __init__(self, store: Store, signer: Callable[[], tuple[x509.PrivateKey, str]]) -> None:
        self._store = store
        self._signer = signer
        self._versions: dict[tuple[str, int], _Version] = {}
        self._rollbacks: dict[tuple[str, int], Signature] = {}

    def check(self, row: ModelRow) -> None:
        """Raise `RolloutUnsuitable` for a version that no message can carry."""
        if len(row.manifest) > MAX_MANIFEST:
            why = f"its manifest has {len(row.manifest)} bytes, and a message carries {MAX_MANIFEST}: shorten it"
            raise RolloutUnsuitable(model=row.reference, why=why)

    def digests(self, rollout: Rollout) -> frozenset[bytes]:
        """Return the blobs that a member of this rollout may fetch now."""
        return frozenset() if rollout.target is None else self._version(rollout.name, rollout.target).digests

    def message(self, rollout: Rollout) -> Deploy | Withdraw:
        """Return what a member of this rollout is to be told now."""
        target = rollout.target
        if target is None:
            return Withdraw(rollout=rollout.id, name=rollout.name, version=rollout.version)
        row, back = self._version(rollout.name, target).row, rollout.state in GOING_BACK
        hold_s = sum(ring.hold_s for ring in rollout.rings)
        limit = rollout.rings[0].max_errors
        return Deploy(
            rollout=rollout.id,
            name=row.name,
            version=row.version,
            manifest=row.manifest,
            signature=Signature.model_validate(row.signature),
            rollback=self._rollback(row) if _goes_down(rollout) else None,
            probation_s=0.0 if back else hold_s,
            report_s=min(LONGEST_REPORT_S, max(1.0, hold_s / 4)),
            max_errors=1.0 if back or limit is None else limit,
        )

    def _version(self, name: str, version: int) -> _Version:
        found = self._versions.get((name, version))
        if found is None:
            row = self._store.models.get(f"{name}:{version}")
            manifest = Manifest.parse(row.manifest)
            digests = frozenset(bytes.fromhex(blob.digest) for blob in manifest.blobs.values())
            found = self._versions[name, version] = _Version(row, digests)
        return found

    def _rollback(self, row: ModelRow) -> Signature:
        """Return the coordinator's word that boards may go back to this version."""
        found = self._rollbacks.get((row.name, row.version))
        if found is None:
            key, chain = self._signer()
            found = self._rollbacks[row.name, row.version] = sign(key, chain, Purpose.ROLLBACK, row.manifest)
        return found


def _goes_down(rollout: Rollout) -> bool:
    """Tell whether the target may be lower than what devices have in force."""
    other = rollout.version if rollout.state in GOING_BACK else rollout.previous
    return rollout.target is not None and other is not None and rollout.target < other
