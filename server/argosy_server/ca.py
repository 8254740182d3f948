"""The coordinator's certificate authority: one root in a private folder, and the certificates it issues.

Devices pin the root's public key, so the key must outlive everything: `ca.key` is made once and a lost `ca.crt` is
made again from it, under the same pin. There is one level today; the root allows one more below it, so that it can
be taken offline later without enrolling any device again.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Self

from cryptography import x509 as cx509

from argosy_common import x509
from argosy_common.clock import Clock
from argosy_common.errors import CertificateInvalid, StorageFailed
from argosy_common.files import private_folder, write_atomic
from argosy_common.link import TlsFiles
from argosy_common.logs import get_logger
from argosy_server.revocation import TAKE_OVER_LIFE, revocation_list

log = get_logger(__name__)

RENEW_BELOW = timedelta(days=275)
"""A server or coordinator certificate with less time left is replaced when it is next asked for."""


class CertificateAuthority:
    """The root key and certificate. Issuing needs no lock: it only reads them."""

    def __init__(self, folder: Path, key: x509.PrivateKey, certificate: cx509.Certificate, clock: Clock) -> None:
        self.folder = folder
        self.certificate = certificate
        self.pin = x509.spki_pin(certificate)
        """`sha256:<hex>`: what a device is told beforehand."""
        self.ca_path = folder / "ca.crt"
        self.crl_path = folder / "devices.crl"
        """The revocation list, for a broker; see `write_crl`."""
        self.pem = x509.certificate_pem(certificate).decode()
        self._key = key
        self._clock = clock

    @classmethod
    def open(cls, folder: Path, clock: Clock) -> Self:
        """Load the root in `folder`, or make one.

        Raises:
            CertificateInvalid: its files do not hold together; they are left as they are.
            StorageFailed: they cannot be read or written.
        """
        try:
            return cls._open(private_folder(folder), clock)
        except OSError as error:
            raise StorageFailed(path=folder, why=error.strerror or error) from error

    @classmethod
    def _open(cls, folder: Path, clock: Clock) -> Self:
        key_path, ca_path = folder / "ca.key", folder / "ca.crt"
        if not key_path.exists():
            if ca_path.exists():
                raise CertificateInvalid(path=ca_path, why=f"its key {key_path} is missing")
            x509.save_key(key_path, x509.generate_key())
            log.info("ca.created", folder=folder)
        key = x509.load_key(key_path)
        if not ca_path.exists():
            name = f"Argosy CA {x509.device_id(key.public_key())}"
            write_atomic(ca_path, x509.certificate_pem(x509.self_signed_ca(key, name, clock.wall())))
        certificate = x509.load_certificate(ca_path)
        if not x509.same_key(certificate, key.public_key()):
            raise CertificateInvalid(path=ca_path, why=f"it does not belong to the key {key_path}")
        return cls(folder, key, certificate, clock)

    def issue_server(self, hosts: Iterable[str], name: str = "server") -> TlsFiles:
        """Return a server's files for `hosts` (names and IP addresses), kept as `<name>.crt` and `<name>.key`.

        The files of the last call are returned as they are while they fit: same hosts, and months to go.

        Raises:
            StorageFailed: they cannot be written.
        """
        wanted = frozenset(hosts)
        key, found = self._kept(name)
        if found is None or _hosts(found) != wanted | {x509.COORDINATOR}:
            found = x509.issue_server(self.certificate, self._key, key.public_key(), sorted(wanted), self._clock.wall())
            self._keep(name, key, found)
        return self._files(name)

    def coordinator_tls(self) -> TlsFiles:
        """Return the files of the coordinator as a client of the broker (common name `coordinator`).

        Raises:
            StorageFailed: they cannot be written.
        """
        key, found = self._kept(x509.COORDINATOR)
        if found is None:
            public, now = key.public_key(), self._clock.wall()
            life = x509.SERVER_LIFE
            found = x509.issue_client(self.certificate, self._key, public, x509.COORDINATOR, now, life=life)
            self._keep(x509.COORDINATOR, key, found)
        return self._files(x509.COORDINATOR)

    def issue_device(
        self, device: str, tls_public_key: x509.PublicKey, life: timedelta = x509.DEVICE_LIFE
    ) -> cx509.Certificate:
        """Issue a device's certificate: common name `device`, valid from a day ago for `life` from now."""
        return x509.issue_client(self.certificate, self._key, tls_public_key, device, self._clock.wall(), life=life)

    def issue_for_take_over(self, device: str) -> tuple[x509.PrivateKey, cx509.Certificate]:
        """Return a new key and a certificate of a device's name that is good for minutes, to end its session with."""
        key, now = x509.generate_key(), self._clock.wall()
        return key, x509.issue_client(self.certificate, self._key, key.public_key(), device, now, life=TAKE_OVER_LIFE)

    def write_crl(self, serials: Iterable[int]) -> Path:
        """Write the list of revoked certificates, newer than the last one, and return its path.

        Raises:
            StorageFailed: it cannot be written.
        """
        try:
            before = self.crl_path.read_bytes() if self.crl_path.exists() else None
            made = revocation_list(self.certificate, self._key, serials, self._clock.wall(), before)
            write_atomic(self.crl_path, made)
        except ValueError as error:
            raise CertificateInvalid(path=self.crl_path, why=error) from error
        except OSError as error:
            raise StorageFailed(path=self.crl_path, why=error.strerror or error) from error
        return self.crl_path

    def _kept(self, name: str) -> tuple[x509.PrivateKey, cx509.Certificate | None]:
        """Return the key kept under `name` (a new one where there is none that works) and its certificate if usable."""
        try:
            key = x509.load_key(self.folder / f"{name}.key")
            certificate = x509.load_certificate(self.folder / f"{name}.crt")
        except CertificateInvalid as error:
            log.debug("ca.nothing_kept", name=name, why=error.message)
            return x509.generate_key(), None
        fits = x509.same_key(certificate, key.public_key()) and x509.issued_by(certificate, self.certificate)
        fresh = certificate.not_valid_after_utc - self._clock.wall() > RENEW_BELOW
        return key, certificate if fits and fresh else None

    def _keep(self, name: str, key: x509.PrivateKey, certificate: cx509.Certificate) -> None:
        try:
            x509.save_key(self.folder / f"{name}.key", key)
            write_atomic(self.folder / f"{name}.crt", x509.certificate_pem(certificate))
        except OSError as error:
            raise StorageFailed(path=self.folder, why=error.strerror or error) from error
        log.info("ca.issued", name=name, until=certificate.not_valid_after_utc.date())

    def _files(self, name: str) -> TlsFiles:
        return TlsFiles(self.ca_path, self.folder / f"{name}.crt", self.folder / f"{name}.key", x509.COORDINATOR)


def _hosts(certificate: cx509.Certificate) -> frozenset[str]:
    names = certificate.extensions.get_extension_for_class(cx509.SubjectAlternativeName).value
    return frozenset(str(name.value) for name in names)
