"""Versions of models for tests, and an authority whose signatures boards take for good."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime

from argosy_common import x509
from argosy_common.artefact import Manifest
from argosy_common.artefact.signature import SIGNER, Purpose, Signature, sign
from argosy_common.wire.bodies import Deploy

NOW = datetime(2026, 5, 1, tzinfo=UTC)
BAD = b"BAD"
"""How the bytes of a model begin that no `Judge` loads."""


@dataclass(frozen=True)
class Artefact:
    """A version and its two blobs."""

    manifest: Manifest
    onnx: bytes
    golden: bytes

    @property
    def blobs(self) -> tuple[bytes, bytes]:
        return self.onnx, self.golden


def artefact(version: int, *, name: str = "har", onnx: bytes | None = None, run: int | None = None) -> Artefact:
    """Make a version; its model is no more than bytes."""
    model, golden = onnx or f"{name} {version}".encode(), f"golden {name} {version}".encode()
    fields = {
        "name": name,
        "version": version,
        "run": run,
        "created_at": NOW.isoformat(),
        "onnx": {"digest": hashlib.sha256(model).hexdigest(), "size": len(model)},
        "input": {"name": "x", "shape": [6, 128]},
        "output": {"name": "y", "shape": [6]},
        "golden": {"blob": {"digest": hashlib.sha256(golden).hexdigest(), "size": len(golden)}, "count": 2},
    }
    return Artefact(Manifest.model_validate(fields), model, golden)


class Authority:
    """A root, and the key for models that it vouches for."""

    def __init__(self) -> None:
        key = x509.generate_key()
        root = x509.self_signed_ca(key, "test authority", NOW)
        self.pem = x509.certificate_pem(root)
        self.key = x509.generate_key()
        signer = x509.issue_signer(root, key, self.key.public_key(), SIGNER, NOW)
        self.chain = x509.certificate_pem(signer).decode()

    def sign(self, manifest: Manifest, purpose: Purpose = Purpose.MANIFEST) -> Signature:
        return sign(self.key, self.chain, purpose, manifest.canonical())

    def deploy(self, made: Artefact, *, rollout: int = 1, rollback: bool = False, **fields: float) -> Deploy:
        """Return what a coordinator with this authority's key sends."""
        return Deploy(
            rollout=rollout,
            name=made.manifest.name,
            version=made.manifest.version,
            manifest=made.manifest.canonical(),
            signature=self.sign(made.manifest),
            rollback=self.sign(made.manifest, Purpose.ROLLBACK) if rollback else None,
            **fields,
        )
