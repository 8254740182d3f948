"""A TLS key and the request for its certificate: made once, and kept in a folder until they have served."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from argosy_common import x509
from argosy_common.errors import CertificateInvalid, RequestInvalid
from argosy_common.files import private_folder, sync_folder, write_atomic
from argosy_common.logs import get_logger

log = get_logger(__name__)

TLS_KEY = "tls.key"
REQUEST = "request.pem"


@dataclass(frozen=True)
class TlsRequest:
    """A key, and the request that it signed. The same request again gets the same certificate."""

    key: x509.PrivateKey
    pem: bytes

    @property
    def der(self) -> bytes:
        """The bytes that name the request."""
        return x509.csr_der(x509.verify_csr(self.pem))


def kept_request(folder: Path) -> TlsRequest:
    """Return the key and the request in `folder`; make what is not there, or is broken.

    Raises:
        OSError: as the file system reports it.
    """
    key_path, request = private_folder(folder) / TLS_KEY, folder / REQUEST
    try:
        key = kept_key(key_path)
    except CertificateInvalid as error:
        log.warning("tls_request.key_replaced", why=error.message)  # nothing that is in use was ever issued for it
        key_path.unlink()
        key = kept_key(key_path)
    if not request.exists() or not _is_request_of(key, request.read_bytes()):
        write_atomic(request, x509.make_csr(key))
    return TlsRequest(key, request.read_bytes())


def kept_key(path: Path) -> x509.PrivateKey:
    """Return the key at `path`, a new one where there is none.

    Raises:
        CertificateInvalid: what is there is no key.
        OSError: as the file system reports it.
    """
    if not path.exists():
        x509.save_key(path, x509.generate_identity_key())
    return x509.load_key(path)


def forget(folder: Path) -> None:
    """Remove a folder of such files, and all in it."""
    if folder.is_dir():
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        sync_folder(folder.parent)


def _is_request_of(key: x509.PrivateKey, pem: bytes) -> bool:
    try:
        return x509.csr_key(x509.verify_csr(pem)) == key.public_key()
    except RequestInvalid:
        return False
