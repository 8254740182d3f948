"""What a device keeps of its enrolment, in its state directory:

identity.key     the key for life; the device's name derives from it
tls.key          the key of the certificate below
device.crt       the certificate, common name = device id, then those between it and the root
tls-…/           another such pair, once the certificate was renewed; `enrolment.json` names the one in force
ca.crt           the coordinator's authority, whose pin was checked
operator.pub     the operator's public key, which signs fleet lists; absent: the coordinator is trusted for its peers
enrolment.json   the rest, written last: the device is enrolled if and only if this file is there
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from argosy_common import x509
from argosy_common.enrolment import BrokerAddress
from argosy_common.errors import CertificateInvalid, NotEnrolled
from argosy_common.files import write_atomic
from argosy_common.link import TlsFiles

IDENTITY_KEY = "identity.key"
TLS_KEY = "tls.key"
CERTIFICATE = "device.crt"
CA = "ca.crt"
OPERATOR_KEY = "operator.pub"
RECORD = "enrolment.json"


class Record(BaseModel):
    """The contents of `enrolment.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    device: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    site: str
    url: str
    """Where the device joined."""
    pin: str
    token_id: str
    """Not secret; tells whether a repeated join is the same one."""
    brokers: Annotated[list[BrokerAddress], Field(min_length=1)]
    pair: Annotated[str, Field(pattern=r"^(tls-[0-9a-f]{16})?$")] = ""
    """The folder of the key and the certificate in force; empty: the state directory itself, as after a join."""


@dataclass(frozen=True)
class Enrolment:
    """An enrolled device. `load` has checked that its files belong together."""

    state_dir: Path
    device: str
    node_id: int
    site: str
    brokers: tuple[tuple[str, int], ...]
    """Hosts and ports, to be tried in this order."""
    url: str
    pin: str
    token_id: str
    operator: x509.PublicKey | None = None
    """The operator's pinned key; None: the coordinator was trusted at enrolment."""
    pair: str = ""
    """See `Record.pair`."""

    @property
    def identity_key_path(self) -> Path:
        """The key for life."""
        return self.state_dir / IDENTITY_KEY

    @property
    def tls_key_path(self) -> Path:
        """The key of the certificate."""
        return self.state_dir / self.pair / TLS_KEY

    @property
    def certificate_path(self) -> Path:
        """The device's certificate."""
        return self.state_dir / self.pair / CERTIFICATE

    @property
    def ca_path(self) -> Path:
        """The coordinator's authority."""
        return self.state_dir / CA

    @property
    def operator_key_path(self) -> Path | None:
        """The operator's pinned key; None: the coordinator was trusted at enrolment."""
        return None if self.operator is None else self.state_dir / OPERATOR_KEY

    def tls_files(self) -> TlsFiles:
        """The files for a `Link` to the coordinator's own broker."""
        return TlsFiles(self.ca_path, self.certificate_path, self.tls_key_path, x509.COORDINATOR)

    @classmethod
    def load(cls, state_dir: Path) -> Self:
        """Read the enrolment in `state_dir`. Dates are not looked at: this board's clock may be wrong.

        Raises:
            NotEnrolled: there is none, or a join was interrupted.
            CertificateInvalid: a file is broken, or the files do not belong together.
        """
        record = read_record(state_dir)
        try:
            return cls._of(state_dir, record)
        except CertificateInvalid:
            if (now := read_record(state_dir)) == record:
                raise
            return cls._of(state_dir, now)  # a daemon has put another pair in force meanwhile

    @classmethod
    def _of(cls, state_dir: Path, record: Record) -> Self:
        folder = state_dir / record.pair
        identity = x509.load_key(state_dir / IDENTITY_KEY)
        if x509.device_id(identity.public_key()) != record.device:
            raise CertificateInvalid(path=state_dir / IDENTITY_KEY, why=f"it is not the key of {record.device}")
        chain = x509.load_chain(folder / CERTIFICATE)
        certificate = chain[0]
        if x509.subject_cn(certificate) != record.device:
            raise CertificateInvalid(path=folder / CERTIFICATE, why=f"it is not for {record.device}")
        if not x509.same_key(certificate, x509.load_key(folder / TLS_KEY).public_key()):
            raise CertificateInvalid(path=folder / TLS_KEY, why="it is not the key of the certificate")
        if not x509.chains_to(chain, x509.load_certificate(state_dir / CA)):
            raise CertificateInvalid(path=folder / CERTIFICATE, why="another authority issued it")
        return cls(
            state_dir=state_dir,
            device=record.device,
            node_id=x509.node_id(record.device),
            site=record.site,
            brokers=tuple((broker.host, broker.port) for broker in record.brokers),
            url=record.url,
            pin=record.pin,
            token_id=record.token_id,
            operator=load_operator_key(state_dir),
            pair=record.pair,
        )


def load_operator_key(state_dir: Path) -> x509.PublicKey | None:
    """Return the operator's key that this device has pinned, or None. It stays through every join.

    Raises:
        CertificateInvalid: its file is broken: that must not pass for a device without one.
    """
    path = state_dir / OPERATOR_KEY
    return x509.load_public_key(path) if path.exists() else None


def read_record(state_dir: Path) -> Record:
    """Return what `enrolment.json` says.

    Raises:
        NotEnrolled: there is none.
        CertificateInvalid: it cannot be read.
    """
    path = state_dir / RECORD
    try:
        return Record.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise NotEnrolled(state_dir=state_dir) from None
    except OSError as error:
        raise CertificateInvalid(path=path, why=error.strerror or error) from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise CertificateInvalid(path=path, why=first["msg"]) from None


def write_record(state_dir: Path, record: Record) -> None:
    """Write `enrolment.json`: from here on the device is what it says.

    Raises:
        OSError: as the file system reports it.
    """
    write_atomic(state_dir / RECORD, record.model_dump_json(indent=2, exclude_defaults=True).encode())
