"""A certificate authority for tests, with the files a broker and its clients need."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.x509 import Certificate

from argosy_common import x509
from argosy_common.link import TlsFiles


class Pki:
    """One authority in one folder; each certificate is made once."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._now = datetime.now(UTC)
        self._key = x509.generate_key()
        self.certificate = x509.self_signed_ca(self._key, "test authority", self._now)
        self.ca = folder / "ca.crt"
        self.ca.write_bytes(x509.certificate_pem(self.certificate))

    def server(self, issued_at: datetime | None = None) -> TlsFiles:
        """Return the broker's files; the certificate is of now, or was issued at another time for 825 days."""
        key, at = x509.generate_key(), issued_at or self._now
        certificate = x509.issue_server(self.certificate, self._key, key.public_key(), ["127.0.0.1"], at)
        return self._files("server", key, certificate)

    def client(self, name: str) -> TlsFiles:
        """Return the files of the client with this common name."""
        key = x509.generate_key()
        certificate = x509.issue_client(self.certificate, self._key, key.public_key(), name, self._now)
        return self._files(name, key, certificate)

    def expired_client(self, name: str) -> TlsFiles:
        """Return the files of a client whose certificate ended a day ago."""
        key, life = x509.generate_key(), timedelta(days=-1) + timedelta(hours=1)
        certificate = x509.issue_client(self.certificate, self._key, key.public_key(), name, self._now, life=life)
        return self._files(name, key, certificate)

    def _files(self, name: str, key: x509.PrivateKey, certificate: Certificate) -> TlsFiles:
        files = TlsFiles(self.ca, self._folder / f"{name}.crt", self._folder / f"{name}.key", x509.COORDINATOR)
        files.cert.write_bytes(x509.certificate_pem(certificate))
        x509.save_key(files.key, key)
        return files
