"""Content-addressed blobs, and their resumable transfer in chunks between peers (specs/transport.md, "Blobs")."""

from argosy_common.blobs.exchange import BlobExchange, TransferOutcome
from argosy_common.blobs.store import BlobRef, BlobStore, BlobWriter

__all__ = ["BlobExchange", "BlobRef", "BlobStore", "BlobWriter", "TransferOutcome"]
