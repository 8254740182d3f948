"""What joining does on the board's disk, whichever way the certificate comes: by HTTPS or over a serial cable.

    with exclusively(state_dir):
        there, operator = standing(…)       already done? may it be replaced? whose fleet lists?
        keys = kept_keys(state_dir)         made once, kept in `joining/` until the enrolment is written
        …                                   somebody turns `keys.request(…)` into an answer
        settle(…)                           checks it and writes it, `enrolment.json` last

Interrupted anywhere, the same steps again complete it. An existing enrolment is not touched before its successor is
complete in memory.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from argosy_client import identity
from argosy_client.identity import Enrolment, Record
from argosy_client.instance import running_pid
from argosy_client.inventory import take_inventory
from argosy_client.renewing import forget_pairs, give_up
from argosy_client.tls_request import TlsRequest, forget, kept_key, kept_request
from argosy_common import x509
from argosy_common.enrolment import EnrolAnswer, EnrolRequest
from argosy_common.errors import (
    AlreadyEnrolled,
    AlreadyRunning,
    CertificateInvalid,
    DiskFull,
    EnrolmentUnreachable,
    NotEnrolled,
    OperatorKeyDiffers,
    RequestInvalid,
    StorageFailed,
)
from argosy_common.files import private_folder, sync_folder, write_atomic
from argosy_common.logs import get_logger
from argosy_common.wire.topics import NAME

log = get_logger(__name__)

JOINING = "joining"


@dataclass(frozen=True)
class Invitation:
    """Where a board is to join, and by which token; of the token only its name, which is no secret."""

    url: str
    pin: str
    token_id: str


@dataclass(frozen=True)
class Keys:
    """The two keys of a join under way, and its certificate request."""

    identity: x509.PrivateKey
    tls: TlsRequest

    @property
    def device(self) -> str:
        """The device id."""
        return x509.device_id(self.identity.public_key())

    def request(self, token: str, name: str) -> EnrolRequest:
        """Return what is sent to the coordinator; `token` is empty where somebody else has it and sends it."""
        return EnrolRequest(
            token=token,
            csr_pem=self.tls.pem.decode(),
            identity_public_pem=x509.public_pem(self.identity.public_key()).decode(),
            identity_signature=x509.sign_enrolment(self.identity, self.tls.der).hex(),
            name=name.encode("utf-8", "replace").decode()[:256],
            inventory=take_inventory().facts(),
        )


# --- before --------------------------------------------------------------------------------------------------------


@contextmanager
def exclusively(state_dir: Path) -> Iterator[None]:
    """Make the state directory, keep every other join out of it, and give the file system's failures our names.

    Raises:
        AlreadyRunning: another join is at work there.
        StorageFailed, DiskFull: the directory cannot be written, now or later in the block.
    """
    with _storage(state_dir), alone(private_folder(state_dir)):
        yield


def standing(
    state_dir: Path, invitation: Invitation, operator: x509.PublicKey | None, *, force: bool
) -> tuple[Enrolment | None, x509.PublicKey | None]:
    """Return the enrolment that this very invitation has made, if it has, and the operator's key to pin.

    The key is the one that is pinned already, or `operator` where none is or `force` was given.

    Raises:
        AlreadyEnrolled: another enrolment is there, and `force` was not given.
        AlreadyRunning: a daemon runs on the enrolment that `force` would replace.
        OperatorKeyDiffers: another operator's key is pinned, and `force` was not given.
        CertificateInvalid: a key file is broken.
    """
    there = _enrolled(state_dir, force=force)
    if there is not None and (there.pin, there.token_id) != (invitation.pin, invitation.token_id):
        if not force:
            raise AlreadyEnrolled(state_dir=state_dir, device=there.device, url=there.url)
        if (pid := running_pid(state_dir)) is not None:  # it would go on with half of each enrolment
            raise AlreadyRunning(daemon="argosy-device", state_dir=state_dir, pid=pid)
        there = None
    return there, _operator(state_dir, operator, force=force)


def kept_keys(state_dir: Path) -> Keys:
    """Return the identity key, and the TLS key and the request of the join under way; make what is not there yet."""
    identity_key = kept_key(state_dir / identity.IDENTITY_KEY)
    return Keys(identity_key, kept_request(state_dir / JOINING))


def _enrolled(state_dir: Path, *, force: bool) -> Enrolment | None:
    try:
        return Enrolment.load(state_dir)
    except NotEnrolled:
        return None
    except CertificateInvalid:
        if force:
            return None  # replacing broken files is what was asked for
        raise


def _operator(state_dir: Path, given: x509.PublicKey | None, *, force: bool) -> x509.PublicKey | None:
    try:
        pinned = identity.load_operator_key(state_dir)
    except CertificateInvalid:
        if given is None or not force:
            raise
        return given
    if given is not None and pinned is not None and given != pinned and not force:
        keys = {"pinned": pinned, "given": given}
        raise OperatorKeyDiffers(**{name: x509.short_fingerprint(key) for name, key in keys.items()})
    return given or pinned


# --- after ---------------------------------------------------------------------------------------------------------


def confirm(there: Enrolment, operator: x509.PublicKey | None) -> Enrolment:
    """Leave an enrolment that is there as it is, but for the operator's key."""
    _pin_operator(there.state_dir, operator)
    forget(there.state_dir / JOINING)
    return replace(there, operator=operator)


def settle(
    state_dir: Path,
    keys: Keys,
    invitation: Invitation,
    answer: EnrolAnswer,
    *,
    ca_pem: str,
    operator: x509.PublicKey | None,
) -> Enrolment:
    """Check the coordinator's answer, then write the enrolment; return it as it reads back.

    Raises:
        EnrolmentUnreachable: the answer would not work afterwards; nothing was written.
    """
    _check(answer, invitation.url, ca_pem, keys)
    _pin_operator(state_dir, operator)  # first: a device must not pass for one that was enrolled without
    _write(state_dir, keys, invitation, ca_pem, answer)
    return Enrolment.load(state_dir)


def _check(answer: EnrolAnswer, url: str, ca_pem: str, keys: Keys) -> None:
    """Take nothing that would not work afterwards."""
    why = None
    try:
        chain = x509.parse_chain(answer.certificate_pem.encode())
        certificate = chain[0]
        if answer.device != keys.device or x509.subject_cn(certificate) != keys.device:
            why = "the certificate is for another device"
        elif answer.node_id != x509.node_id(keys.device):
            why = "the node id is another device's"
        elif not x509.same_key(certificate, keys.tls.key.public_key()):
            why = "the certificate is for another key"
        elif not x509.chains_to(chain, x509.parse_certificate(ca_pem.encode())):
            why = "another authority issued the certificate"
        elif not NAME.match(answer.site):
            why = "the site's name cannot be used in topics"
    except RequestInvalid as error:
        why = error.message
    if why is not None:
        raise EnrolmentUnreachable(url=url, why=f"its answer cannot be used: {why}")


def _write(state_dir: Path, keys: Keys, invitation: Invitation, ca_pem: str, answer: EnrolAnswer) -> None:
    """Write the enrolment. `enrolment.json` goes first if an old one is there, and comes last: it is the whole."""
    record = Record(
        device=answer.device,
        site=answer.site,
        url=invitation.url,
        pin=invitation.pin,
        token_id=invitation.token_id,
        brokers=answer.brokers,
    )
    mark = state_dir / identity.RECORD
    if mark.exists():
        mark.unlink()
        sync_folder(state_dir)
    x509.save_key(state_dir / identity.TLS_KEY, keys.tls.key)
    write_atomic(state_dir / identity.CA, ca_pem.encode())
    write_atomic(state_dir / identity.CERTIFICATE, answer.certificate_pem.encode())
    identity.write_record(state_dir, record)
    forget(state_dir / JOINING)
    give_up(state_dir)
    forget_pairs(state_dir, but=record.pair)


def _pin_operator(state_dir: Path, operator: x509.PublicKey | None) -> None:
    path = state_dir / identity.OPERATOR_KEY
    if operator is not None and not (path.exists() and path.read_bytes() == x509.public_pem(operator)):
        write_atomic(path, x509.public_pem(operator))


@contextmanager
def alone(state_dir: Path) -> Iterator[None]:
    """Keep a second join out of the same state directory."""
    handle = os.open(state_dir / "join.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(handle, 16, 0).decode("ascii", "replace") or "unknown"
            raise AlreadyRunning(daemon="join", state_dir=state_dir, pid=pid) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)


@contextmanager
def _storage(state_dir: Path) -> Iterator[None]:
    """Give the file system's failures our names."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(path=state_dir, needed="a few thousand") from error
        raise StorageFailed(path=error.filename or state_dir, why=error.strerror or error) from error
