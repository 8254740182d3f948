"""Taking the root's key off the coordinator, so that whoever breaks into it cannot make an authority of his own.

The coordinator goes on with its intermediate. The root is needed again once in years, to renew that
(`CertificateAuthority.renew`), or when it must be replaced.
"""

from __future__ import annotations

from pathlib import Path

from argosy_common import x509
from argosy_common.errors import CertificateInvalid, StorageFailed
from argosy_common.files import sync_folder


def take_offline(folder: Path, target: Path) -> None:
    """Move the root's key from the authority's folder to the file `target`, which is on another medium.

    It is removed here when what was written there has been read back. Interrupted, the same again completes it.

    Raises:
        CertificateInvalid: there is none, nothing could go on without it, or another key is in that file.
        StorageFailed: it cannot be written there, or removed here.
    """
    path = folder / "ca.key"
    key = x509.load_key(path)
    root, chain = x509.load_certificate(folder / "ca.crt"), x509.load_chain(folder / "intermediate.crt")
    if not x509.same_key(root, key.public_key()):
        raise CertificateInvalid(path=path, why="it is not the key of ca.crt")
    if not x509.chains_to(chain, root):
        raise CertificateInvalid(path=folder / "intermediate.crt", why="the root did not issue it")
    if target.resolve().is_relative_to(folder.resolve()):
        raise CertificateInvalid(path=target, why="that is not off the coordinator")
    try:
        if not target.exists():
            x509.save_key(target, key)
        if x509.load_key(target).private_numbers() != key.private_numbers():
            raise CertificateInvalid(path=target, why="another key is in that file already")
        path.unlink()
        sync_folder(folder)
    except OSError as error:
        raise StorageFailed(path=error.filename or target, why=error.strerror or error) from error
