"""The coordinator's certificate authority: a root, an intermediate below it, and the certificates that this one issues.

    ca.key, ca.crt                       the root. Devices pin its public key, so the key must outlive everything; it
                                         signs intermediates only, and may be taken offline (`root_key.py`)
    intermediate.key, intermediate.crt   what issues every other certificate, and lists those that are revoked
    NAME.key, NAME.crt                   the coordinator's own: broker, enrolment, coordinator

A lost `ca.crt` is made again from its key, under the same pin. What is shown to others is a chain: the certificate,
then the intermediate's. Devices that enrolled before there was an intermediate have certificates of the root's own;
they stay good until they are renewed, and so the root's revocation list is kept beside the intermediate's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
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

ROOT, INTERMEDIATE = "ca", "intermediate"
RENEW_BELOW = timedelta(days=275)
"""A server or coordinator certificate with less time left is replaced when it is next asked for."""
RENEW_INTERMEDIATE_BELOW = timedelta(days=365)
_LIST = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----\n", re.DOTALL)


class CertificateAuthority:
    """Both levels. Issuing needs no lock: it only reads them."""

    def __init__(
        self,
        folder: Path,
        *,
        root: cx509.Certificate,
        issuer: cx509.Certificate,
        key: x509.PrivateKey,
        clock: Clock,
    ) -> None:
        """Take what `open` found."""
        self.folder = folder
        self.certificate = root
        """The root's."""
        self.issuer = issuer
        """The intermediate's."""
        self.pin = x509.spki_pin(root)
        """`sha256:<hex>`: what a device is told beforehand."""
        self.ca_path = folder / "ca.crt"
        self.crl_path = folder / "devices.crl"
        """The revocation lists, for a broker; see `write_crl`."""
        self.pem = x509.certificate_pem(root).decode()
        """The root's."""
        self._root_key_path = folder / "ca.key"
        self._key = key
        self._clock = clock

    @property
    def root_is_here(self) -> bool:
        """Whether the root's key is in the folder; else it is offline. It is not kept in memory: it may go any time."""
        return self._root_key_path.exists()

    @classmethod
    def open(cls, folder: Path, clock: Clock) -> Self:
        """Load the authority in `folder`, or make one.

        Raises:
            CertificateInvalid: its files do not hold together; they are left as they are.
            StorageFailed: they cannot be read or written.
        """
        try:
            return cls._open(private_folder(folder), clock, None)
        except OSError as error:
            raise StorageFailed(path=folder, why=error.strerror or error) from error

    @classmethod
    def renew(cls, folder: Path, clock: Clock, root_key: Path) -> Self:
        """Have the root's key in the file `root_key`, which is offline, sign the intermediate in `folder` anew.

        Raises:
            CertificateInvalid, StorageFailed: as for `open`.
        """
        try:
            return cls._open(folder, clock, root_key)
        except OSError as error:
            raise StorageFailed(path=folder, why=error.strerror or error) from error

    @classmethod
    def _open(cls, folder: Path, clock: Clock, offline: Path | None) -> Self:
        key_path, ca_path = folder / "ca.key", folder / "ca.crt"
        below = folder / "intermediate.crt"
        if not ca_path.exists() and not key_path.exists():
            if below.exists():
                raise CertificateInvalid(path=ca_path, why="it is missing, and the intermediate is of no use without")
            x509.save_key(key_path, x509.generate_key())
            log.info("ca.created", folder=folder)
        key = x509.load_key(offline or key_path) if offline or key_path.exists() else None
        if key is not None and not ca_path.exists():
            name = f"Argosy CA {x509.device_id(key.public_key())}"
            write_atomic(ca_path, x509.certificate_pem(x509.self_signed_ca(key, name, clock.wall())))
        root = x509.load_certificate(ca_path)
        if key is not None and not x509.same_key(root, key.public_key()):
            raise CertificateInvalid(path=ca_path, why=f"it does not belong to the key {offline or key_path}")
        issuer_key, issuer = _intermediate(folder, root, key, clock, anew=offline is not None)
        return cls(folder, root=root, issuer=issuer, key=issuer_key, clock=clock)

    def issue_server(self, hosts: Iterable[str], name: str = "server") -> TlsFiles:
        """Return a server's files for `hosts` (names and IP addresses), kept as `<name>.crt` and `<name>.key`.

        The files of the last call are returned as they are while they fit: same hosts, and months to go.

        Raises:
            StorageFailed: they cannot be written.
        """
        wanted = frozenset(hosts)
        key, found = self._kept(name)
        if found is None or _hosts(found) != wanted | {x509.COORDINATOR}:
            found = x509.issue_server(self.issuer, self._key, key.public_key(), sorted(wanted), self._clock.wall())
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
            found = x509.issue_client(self.issuer, self._key, public, x509.COORDINATOR, now, life=life)
            self._keep(x509.COORDINATOR, key, found)
        return self._files(x509.COORDINATOR)

    def own_ends(self) -> dict[str, datetime]:
        """Return when each certificate that is kept here ends, by its name; the authority's two are not among them."""
        above = {ROOT, INTERMEDIATE}
        paths = [path for path in sorted(self.folder.glob("*.crt")) if path.stem not in above]
        return {path.stem: x509.load_chain(path)[0].not_valid_after_utc for path in paths}

    def signer(self, name: str) -> tuple[x509.PrivateKey, str]:
        """Return a key that signs what devices run, and its chain (PEM), kept as `<name>.key` and `<name>.crt`.

        Raises:
            StorageFailed: they cannot be written.
        """
        key, found = self._kept(name)
        if found is None:
            found = x509.issue_signer(self.issuer, self._key, key.public_key(), name, self._clock.wall())
            self._keep(name, key, found)
        return key, x509.chain_pem(found, self.issuer).decode()

    def issue_device(
        self, device: str, tls_public_key: x509.PublicKey, life: timedelta = x509.DEVICE_LIFE
    ) -> list[cx509.Certificate]:
        """Issue a device's certificate: common name `device`, valid from a day ago for `life` from now; its chain."""
        now = self._clock.wall()
        return [x509.issue_client(self.issuer, self._key, tls_public_key, device, now, life=life), self.issuer]

    def issue_for_take_over(self, device: str) -> tuple[x509.PrivateKey, bytes]:
        """Return a new key and a chain (PEM) of a device's name, good for minutes, to end its session with."""
        key = x509.generate_key()
        return key, x509.chain_pem(*self.issue_device(device, key.public_key(), TAKE_OVER_LIFE))

    def write_crl(self, serials: Iterable[int]) -> Path:
        """Write the lists of revoked certificates, newer than the last ones, and return their path.

        A broker looks for the list of a certificate's own issuer. That of the root stays as it is while it is offline.

        Raises:
            StorageFailed: it cannot be written.
        """
        revoked, now = list(serials), self._clock.wall()
        try:
            before = self.crl_path.read_bytes() if self.crl_path.exists() else b""
            mine, roots = (_list_of(each, before) for each in (self.issuer, self.certificate))
            made = revocation_list(self.issuer, self._key, revoked, now, mine)
            if self.root_is_here:
                root_key = x509.load_key(self._root_key_path)
                roots = revocation_list(self.certificate, root_key, revoked, now, roots)
            write_atomic(self.crl_path, made + (roots or b""))
        except ValueError as error:
            raise CertificateInvalid(path=self.crl_path, why=error) from error
        except OSError as error:
            raise StorageFailed(path=self.crl_path, why=error.strerror or error) from error
        return self.crl_path

    def list_holds(self) -> bool:
        """Tell whether brokers take the intermediate's list by the clock as it is: not one of the future.

        Raises:
            StorageFailed: it cannot be read.
        """
        try:
            mine = _list_of(self.issuer, self.crl_path.read_bytes())
        except OSError as error:
            raise StorageFailed(path=self.crl_path, why=error.strerror or error) from error
        return mine is not None and cx509.load_pem_x509_crl(mine).last_update_utc <= self._clock.wall()

    def _kept(self, name: str) -> tuple[x509.PrivateKey, cx509.Certificate | None]:
        """Return the key kept under `name` (a new one where there is none that works) and its certificate if usable."""
        try:
            key = x509.load_key(self.folder / f"{name}.key")
            chain = x509.load_chain(self.folder / f"{name}.crt")
        except CertificateInvalid as error:
            log.debug("ca.nothing_kept", name=name, why=error.message)
            return x509.generate_key(), None
        fits = x509.same_key(chain[0], key.public_key()) and chain[1:] == [self.issuer]
        fits = fits and x509.issued_by(chain[0], self.issuer)
        now = self._clock.wall()
        # one of the future was made while the clock was wrong
        fresh = chain[0].not_valid_after_utc - now > RENEW_BELOW and chain[0].not_valid_before_utc <= now
        return key, chain[0] if fits and fresh else None

    def _keep(self, name: str, key: x509.PrivateKey, certificate: cx509.Certificate) -> None:
        try:
            x509.save_key(self.folder / f"{name}.key", key)
            write_atomic(self.folder / f"{name}.crt", x509.chain_pem(certificate, self.issuer))
        except OSError as error:
            raise StorageFailed(path=self.folder, why=error.strerror or error) from error
        log.info("ca.issued", name=name, until=certificate.not_valid_after_utc.date())

    def _files(self, name: str) -> TlsFiles:
        return TlsFiles(self.ca_path, self.folder / f"{name}.crt", self.folder / f"{name}.key", x509.COORDINATOR)


def _intermediate(
    folder: Path, root: cx509.Certificate, root_key: x509.PrivateKey | None, clock: Clock, *, anew: bool
) -> tuple[x509.PrivateKey, cx509.Certificate]:
    """Return the intermediate's key and certificate; with the root's key, make or renew what is not good, or `anew`.

    The key stays at a renewal, and so does the name: what it issued, and its list of what is revoked, stay good.

    Raises:
        CertificateInvalid: they do not hold together, and the root's key is needed to mend that.
    """
    key_path, path = folder / "intermediate.key", folder / "intermediate.crt"
    key = found = None
    why = f"it is missing, and so is the root's key {folder / 'ca.key'}"
    try:
        key = x509.load_key(key_path)
        certificate = x509.load_certificate(path)
        if not x509.same_key(certificate, key.public_key()):
            why = f"it does not belong to the key {key_path}"
        elif not x509.chains_to([certificate], root):
            why, key = "another root issued it", None
        else:
            found = certificate
    except CertificateInvalid as error:
        log.debug("ca.no_intermediate", why=error.message)
    left = found.not_valid_after_utc - clock.wall() if found is not None else timedelta(0)
    good = left > RENEW_INTERMEDIATE_BELOW and not anew
    if key is not None and found is not None and (root_key is None or good):
        if left < RENEW_INTERMEDIATE_BELOW:
            log.warning("ca.intermediate_ends", until=found.not_valid_after_utc.date(), why="the root is offline")
        return key, found
    if root_key is None:
        raise CertificateInvalid(path=path, why=why)
    if key is None:
        key = x509.generate_key()
        x509.save_key(key_path, key)
    name = f"Argosy intermediate {x509.device_id(key.public_key())}"
    made = x509.issue_intermediate(root, root_key, key.public_key(), name, clock.wall())
    write_atomic(path, x509.certificate_pem(made))
    log.info("ca.intermediate_made", until=made.not_valid_after_utc.date())
    return key, made


def _list_of(issuer: cx509.Certificate, lists: bytes) -> bytes | None:
    """Return the revocation list of one issuer among several."""
    for each in _LIST.findall(lists):
        if cx509.load_pem_x509_crl(each).issuer == issuer.subject:
            return bytes(each)
    return None


def _hosts(certificate: cx509.Certificate) -> frozenset[str]:
    names = certificate.extensions.get_extension_for_class(cx509.SubjectAlternativeName).value
    return frozenset(str(name.value) for name in names)
