"""The registry of models: gives drafts their numbers, and signs them.

Part of the daemon, and so without numpy and without a runtime: what is in an ONNX file was checked where it was made.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from argosy_common import x509
from argosy_common.artefact.manifest import MAX_BYTES, Blob, Manifest
from argosy_common.artefact.signature import SIGNER, Purpose, Signature, sign, verify
from argosy_common.blobs import BlobStore
from argosy_common.clock import Clock
from argosy_common.errors import ArtefactInvalid, BlobUnknown, SignatureInvalid
from argosy_common.logs import get_logger
from argosy_server.ca import CertificateAuthority
from argosy_server.models.draft import Draft, Origin
from argosy_server.store import ModelRow, Store
from argosy_server.store.models import SignedManifest

log = get_logger(__name__)


@dataclass(frozen=True)
class Signer:
    """Who signed a version."""

    name: str
    serial: str
    """Of the signer's certificate, hexadecimal."""
    not_after: datetime
    fault: str
    """Why the signature does not hold; empty where it does."""


class ModelRegistry:
    """All versions of all models. Safe to use from any thread."""

    def __init__(self, store: Store, blobs: BlobStore, ca: CertificateAuthority, *, clock: Clock) -> None:
        self._store = store
        self._blobs = blobs
        self._ca = ca
        self._clock = clock
        self._verified: dict[str, Manifest] = {}

    def add(self, name: str, draft: Draft, origin: Origin, *, actor: str) -> ModelRow:
        """Sign a draft as the next version of `name` and keep it.

        Raises:
            BlobUnknown, BlobCorrupt: its blobs are not here.
            ArtefactInvalid: what it says does not hold together.
            ModelNotFound: there is no such parent.
        """
        for blob in draft.blobs:
            self._require(blob)
        key, chain = self._ca.signer(SIGNER)

        def make(version: int, parent: int | None) -> SignedManifest:
            manifest = draft.manifest(name, version, at=self._clock.wall(), parent=parent, origin=origin)
            data = manifest.canonical()
            if len(data) > MAX_BYTES:
                raise ArtefactInvalid(what="manifest", why=f"it is longer than {MAX_BYTES} bytes")
            signature = sign(key, chain, Purpose.MANIFEST, data).model_dump(mode="json")
            digests = (draft.onnx.digest, draft.golden.blob.digest)
            return SignedManifest(data, signature, *digests, run=origin.run, round=origin.round)

        row = self._store.models.add(name, make, parent=origin.parent, actor=actor)
        log.info("model.added", model=row.reference, run=origin.run, onnx=row.onnx_digest)
        return row

    def signer(self, row: ModelRow) -> Signer:
        """Return who signed a version, and whether boards will take that for good."""
        signature = Signature.model_validate(row.signature)
        certificate = x509.parse_chain(signature.certificate_pem.encode())[0]
        fault = ""
        try:
            verify(signature, Purpose.MANIFEST, row.manifest, self._ca.pem)
        except SignatureInvalid as error:
            fault = error.facts["why"]
        return Signer(
            x509.subject_cn(certificate), x509.serial_text(certificate), certificate.not_valid_after_utc, fault
        )

    def signed(self, reference: str) -> tuple[Manifest, Path]:
        """Return the manifest of a version whose signature holds, and the file of its model.

        Raises:
            ModelNotFound: there is no such version.
            SignatureInvalid: boards would not take it for good.
            BlobUnknown: the file is not here.
        """
        manifest = self._verified.get(reference)
        if manifest is None:
            row = self._store.models.get(reference)
            if fault := self.signer(row).fault:
                raise SignatureInvalid(why=fault)
            manifest = Manifest.parse(row.manifest)
            if reference == manifest.reference:  # what `name` alone means changes
                self._verified[reference] = manifest
        return manifest, self._blobs.path(bytes.fromhex(manifest.onnx.digest))

    def part(self, row: ModelRow, part: str) -> bytes | Blob:
        """Return a part of a version by its name in `artefact.FILES`: its bytes, or the blob that they are in."""
        manifest = Manifest.parse(row.manifest)
        small: dict[str, bytes] = {
            "manifest": row.manifest,
            "signature": Signature.model_validate(row.signature).model_dump_json().encode(),
        }
        return small[part] if part in small else {"onnx": manifest.onnx, "golden": manifest.golden.blob}[part]

    def _require(self, blob: Blob) -> None:
        path = self._blobs.checked(bytes.fromhex(blob.digest))
        if path.stat().st_size != blob.size:
            raise BlobUnknown(peer="The coordinator", digest=blob.digest[:12])
