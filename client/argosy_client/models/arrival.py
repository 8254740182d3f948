"""How a version comes to the device's disk: checked, fetched through the blob exchange, checked again, installed."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass, field
from pathlib import Path

from argosy_client.gateway import COORDINATOR
from argosy_client.models.store import ModelStore
from argosy_common.artefact.manifest import Blob, Manifest
from argosy_common.artefact.signature import Purpose, Signature, verify
from argosy_common.blobs import BlobRef, BlobStore
from argosy_common.blobs.exchange import BlobExchange, TransferOutcome
from argosy_common.errors import (
    ArgosyError,
    ArtefactInvalid,
    InstructionCancelled,
    ModelError,
    ModelOutdated,
    TransferTimedOut,
)
from argosy_common.logs import get_logger
from argosy_common.wire.bodies import Deploy, Withdraw

log = get_logger(__name__)

FETCH_BOUND_S = 2 * 3600.0
"""The longest wait for a blob; the exchange gives up long before."""

Order = Deploy | Withdraw


@dataclass(eq=False)
class Task:
    """An order on its way through the thread."""

    order: Order
    cancelled: threading.Event = field(default_factory=threading.Event)
    fetched: queue.SimpleQueue[TransferOutcome | None] = field(default_factory=queue.SimpleQueue)

    def cancel(self) -> None:
        """Have the thread give it up, also where it waits for a blob."""
        self.cancelled.set()
        self.fetched.put(None)


class Arrival:
    """Checks orders, and brings what they name. Used from one thread."""

    def __init__(self, *, store: ModelStore, blobs: BlobStore, exchange: BlobExchange, root: Path) -> None:
        self._store = store
        self._blobs = blobs
        self._exchange = exchange
        self._root = root

    @property
    def root_pem(self) -> str:
        """The authority that this device pinned when it joined."""
        return self._root.read_text()

    def verified(self, body: Deploy, least: int) -> Manifest:
        """Check an order by steps 1 to 3 of `deployments.py`."""
        root_pem = self.root_pem
        verify(body.signature, Purpose.MANIFEST, body.manifest, root_pem)  # 1
        manifest = Manifest.parse(body.manifest)  # 2
        if (manifest.name, manifest.version) != (body.name, body.version):
            why = f"it is of {manifest.reference}, and {body.name}:{body.version} was announced"
            raise ArtefactInvalid(what="manifest", why=why)
        if manifest.version < least:  # 3
            if body.rollback is None:
                raise ModelOutdated(name=body.name, found=body.version, known=least)
            verify(body.rollback, Purpose.ROLLBACK, body.manifest, root_pem)
        return manifest

    def held(self, name: str, version: int) -> Manifest | None:
        """Return the manifest of a version that is on disk; None where it is not, or is damaged."""
        if not self._store.has(name, version):
            return None
        try:
            return self._store.checked(name, version, self.root_pem)
        except ModelError as error:
            log.warning("model.damaged", model=f"{name}:{version}", why=error.message)
            return None

    def bring(self, task: Task, manifest: Manifest, signature: Signature) -> None:
        """Fetch a version and put it on disk: step 4."""
        files = {file: _ref(blob) for file, blob in manifest.blobs.items()}
        refs = list(files.values())
        for ref in refs:
            self._blobs.pin(ref.digest)
        try:
            self._fetch(task, [ref for ref in dict.fromkeys(refs) if not self._blobs.has(ref.digest)])
            sources = {file: self._blobs.path(ref.digest) for file, ref in files.items()}
            self._store.install(manifest, signature, sources)
        finally:
            for ref in refs:
                self._blobs.unpin(ref.digest)
        for ref in refs:
            self._blobs.delete(ref.digest)  # they are in the model's folder now, and need not be here twice

    def _fetch(self, task: Task, missing: list[BlobRef]) -> None:
        for ref in missing:
            self._exchange.fetch(COORDINATOR, ref, task.fetched.put)
        try:
            for _ in missing:
                self._next_fetched(task)
        except ArgosyError:
            for ref in missing:
                self._exchange.cancel(COORDINATOR, ref.digest)
            raise

    def _next_fetched(self, task: Task) -> None:
        try:
            outcome = task.fetched.get(timeout=FETCH_BOUND_S)
        except queue.Empty:
            raise TransferTimedOut(digest="of a model", peer=COORDINATOR, seconds=FETCH_BOUND_S) from None
        if outcome is None:
            raise InstructionCancelled(message=f"deploy of {task.order.name}:{task.order.version}")
        if outcome.error is not None:
            raise outcome.error
        log.info("model.fetched", digest=outcome.ref.hex, bytes=outcome.wire_bytes, via=outcome.via)


def _ref(blob: Blob) -> BlobRef:
    return BlobRef(bytes.fromhex(blob.digest), blob.size)
