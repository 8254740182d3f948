"""Content-addressed blobs, and their resumable transfer in chunks between peers (specs/transport.md, "Blobs").

This name stays light, for the processes that host apps: it brings the store alone. Transfers are in `exchange`.
"""

from argosy_common.blobs.store import BlobRef, BlobStore, BlobWriter

__all__ = ["BlobRef", "BlobStore", "BlobWriter"]
