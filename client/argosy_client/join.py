"""How a device joins (docs/protocol.md, "Enrolment"): a URL, a token and a pin in, an `Enrolment` on disk out.

Interrupted anywhere, the same command again completes it. The keys and the request are made once and kept in
`joining/` until the enrolment is written; the coordinator answers a repeated request with the same certificate and
does not count the token again. An existing enrolment is not touched before its successor is complete in memory.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from argosy_client import identity
from argosy_client.approval import Patience, until_decided
from argosy_client.coordinator_https import Address, blind_context, exchange
from argosy_client.identity import Enrolment, Record
from argosy_client.instance import running_pid
from argosy_client.inventory import take_inventory
from argosy_common import x509
from argosy_common.clock import Clock
from argosy_common.enrolment import CA_PATH, ENROL_PATH, MAX_BODY, EnrolAnswer, EnrolRequest, JoinToken
from argosy_common.errors import (
    AlreadyEnrolled,
    AlreadyRunning,
    ApprovalPending,
    ArgosyError,
    CertificateInvalid,
    DeviceRefused,
    DiskFull,
    EnrolmentUnreachable,
    NotEnrolled,
    OperatorKeyDiffers,
    PinMismatch,
    RequestExpired,
    RequestInvalid,
    SettingsInvalid,
    StorageFailed,
    TokenExhausted,
    TokenExpired,
    TokenMalformed,
    TokenUnknown,
    TooManyAttempts,
    error_from_wire,
)
from argosy_common.files import private_folder, sync_folder, write_atomic
from argosy_common.logs import get_logger
from argosy_common.wire.topics import NAME

log = get_logger(__name__)

JOINING = "joining"
_PIN = re.compile(r"sha256:[0-9a-f]{64}\Z")
_REFUSALS = (
    ApprovalPending,
    DeviceRefused,
    RequestExpired,
    RequestInvalid,
    TokenExhausted,
    TokenExpired,
    TokenMalformed,
    TokenUnknown,
    TooManyAttempts,
)


@dataclass(frozen=True)
class _Keys:
    identity: x509.PrivateKey
    tls: x509.PrivateKey
    csr_pem: bytes

    @property
    def device(self) -> str:
        return x509.device_id(self.identity.public_key())


def join(
    url: str,
    token: str,
    pin: str,
    state_dir: Path,
    name: str,
    *,
    clock: Clock,
    operator: x509.PublicKey | None = None,
    force: bool = False,
    patience: Patience | None = None,
) -> Enrolment:
    """Enrol this device, and return its enrolment. Takes at most about two minutes, and `patience` for an operator.

    The wall clock is never asked: this board may think that it is 1970.

    Repeating a join that succeeded returns the same enrolment. `force` replaces another one; the identity stays, and
    so does the operator's key, unless `operator` is another.

    Raises:
        SettingsInvalid, TokenMalformed: the URL, the pin or the token is none; nothing was sent.
        AlreadyEnrolled: another enrolment is there and `force` was not given.
        OperatorKeyDiffers: another operator's key is pinned and `force` was not given.
        AlreadyRunning: another join runs on `state_dir`, or the daemon whose enrolment `force` would replace.
        EnrolmentUnreachable: no proper answer; the same command may be repeated.
        PinMismatch: the server is not the coordinator that the pin names; the token was not sent.
        TokenUnknown, TokenExpired, TokenExhausted, RequestInvalid, DeviceRefused, TooManyAttempts: it refused.
        ApprovalPending: no operator has decided within `patience`; the same command again goes on.
        RequestExpired: none decided while the request was good.
        CertificateInvalid: a key file is broken.
        StorageFailed, DiskFull: the state directory cannot be written.
    """
    began = clock.monotonic()
    address = Address.parse(url)
    wanted = JoinToken.parse(token)
    pin = pin.strip().lower()
    if not _PIN.match(pin):
        raise SettingsInvalid(name="pin", why="it must read sha256: and 64 hexadecimal digits", source="the command")
    with _storage(state_dir), _alone(private_folder(state_dir)):
        there = _enrolled(state_dir, force=force)
        same = there is not None and (there.pin, there.token_id) == (pin, wanted.id)
        if there is not None and not same:
            if not force:
                raise AlreadyEnrolled(state_dir=state_dir, device=there.device, url=there.url)
            if (pid := running_pid(state_dir)) is not None:  # it would go on with half of each enrolment
                raise AlreadyRunning(daemon="argosy-device", state_dir=state_dir, pid=pid)
        operator = _operator(state_dir, operator, force=force)
        if there is not None and same:
            _pin_operator(state_dir, operator)
            _forget_joining(state_dir)
            return replace(there, operator=operator)
        keys = _keys(state_dir)
        ca_pem = _fetch_authority(address, pin)
        request = _request(token.strip(), keys, name)
        answer = until_decided(lambda: _enrol(address, pin, ca_pem, request), patience or Patience(), clock)
        _check(answer, address, ca_pem, keys)
        record = Record(
            device=answer.device,
            site=answer.site,
            url=address.url,
            pin=pin,
            token_id=wanted.id,
            brokers=answer.brokers,
        )
        _pin_operator(state_dir, operator)  # first: a device must not pass for one that was enrolled without
        _write(state_dir, keys, ca_pem, answer, record)
        log.info(
            "join.enrolled", device=answer.device, site=answer.site, url=address.url, seconds=clock.monotonic() - began
        )
        return Enrolment.load(state_dir)


# --- before the network --------------------------------------------------------------------------------------------


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
    """Return the operator's key to pin: the one that is pinned already, or the one given where none is or `force`."""
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


def _keys(state_dir: Path) -> _Keys:
    """Return the identity key, and the TLS key and the request of the join under way; make what is not there yet."""
    joining = private_folder(state_dir / JOINING)
    identity_key = _kept_key(state_dir / identity.IDENTITY_KEY)
    tls_path, request = joining / identity.TLS_KEY, joining / "request.pem"
    try:
        tls_key = _kept_key(tls_path)
    except CertificateInvalid as error:
        log.warning("join.key_replaced", why=error.message)  # nothing was ever issued for it that is in use
        tls_path.unlink()
        tls_key = _kept_key(tls_path)
    if not request.exists() or not _is_request_of(tls_key, request.read_bytes()):
        write_atomic(request, x509.make_csr(tls_key))
    return _Keys(identity_key, tls_key, request.read_bytes())


def _kept_key(path: Path) -> x509.PrivateKey:
    if not path.exists():
        x509.save_key(path, x509.generate_identity_key())
    return x509.load_key(path)


def _is_request_of(key: x509.PrivateKey, pem: bytes) -> bool:
    try:
        return x509.csr_key(x509.verify_csr(pem)) == key.public_key()
    except RequestInvalid:
        return False


# --- the network ---------------------------------------------------------------------------------------------------


def _fetch_authority(address: Address, pin: str) -> str:
    """Fetch the authority from whoever answers, and believe it only if its public key is the pinned one.

    The pin names a key, and the certificate's own signature was made with that key: its dates do not matter.
    """
    got = exchange(address, blind_context(), "GET", CA_PATH)
    try:
        certificate = x509.parse_certificate(got.body)
    except RequestInvalid:
        why = f"it does not answer like an Argosy coordinator (status {got.status})"
        raise EnrolmentUnreachable(url=address.url, why=why) from None
    if x509.spki_pin(certificate) != pin or not x509.issued_by(certificate, certificate):
        raise PinMismatch(url=address.url, found=x509.spki_pin(certificate), expected=pin)
    return x509.certificate_pem(certificate).decode()


def _enrol(address: Address, pin: str, ca_pem: str, request: EnrolRequest) -> EnrolAnswer:
    """Send the request to a server that the pinned authority vouches for, and to nobody else."""
    try:
        got = exchange(address, x509.coordinator_trust(ca_pem), "POST", ENROL_PATH, request.model_dump_json().encode())
    except ssl.SSLCertVerificationError as error:
        found = f"a server certificate that it did not issue: {error.verify_message}"
        raise PinMismatch(url=address.url, found=found, expected=pin) from None
    if got.status != 200:
        raise _refusal(address, got.status, got.body)
    try:
        return EnrolAnswer.model_validate_json(got.body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        why = f"its answer cannot be used: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
        raise EnrolmentUnreachable(url=address.url, why=why) from None


def _request(token: str, keys: _Keys, name: str) -> EnrolRequest:
    csr = x509.csr_der(x509.verify_csr(keys.csr_pem))
    return EnrolRequest(
        token=token,
        csr_pem=keys.csr_pem.decode(),
        identity_public_pem=x509.public_pem(keys.identity.public_key()).decode(),
        identity_signature=x509.sign_enrolment(keys.identity, csr).hex(),
        name=name.encode("utf-8", "replace").decode()[:256],
        inventory=take_inventory().facts(),
    )


def _refusal(address: Address, status: int, body: bytes) -> ArgosyError:
    try:
        told = json.loads(body[:MAX_BODY])
    except ValueError:
        told = None
    error = error_from_wire(told) if isinstance(told, dict) else None
    if isinstance(error, _REFUSALS):
        return error
    why = f"it could not answer just now (status {status}, {error.code if error else 'no reason given'})"
    return EnrolmentUnreachable(url=address.url, why=why)


def _check(answer: EnrolAnswer, address: Address, ca_pem: str, keys: _Keys) -> None:
    """Take nothing that would not work afterwards."""
    why = None
    try:
        certificate = x509.parse_certificate(answer.certificate_pem.encode())
        if answer.device != keys.device or x509.subject_cn(certificate) != keys.device:
            why = "the certificate is for another device"
        elif answer.node_id != x509.node_id(keys.device):
            why = "the node id is another device's"
        elif not x509.same_key(certificate, keys.tls.public_key()):
            why = "the certificate is for another key"
        elif not x509.issued_by(certificate, x509.parse_certificate(ca_pem.encode())):
            why = "another authority issued the certificate"
        elif not NAME.match(answer.site):
            why = "the site's name cannot be used in topics"
    except RequestInvalid as error:
        why = error.message
    if why is not None:
        raise EnrolmentUnreachable(url=address.url, why=f"its answer cannot be used: {why}")


# --- after the network ---------------------------------------------------------------------------------------------


def _write(state_dir: Path, keys: _Keys, ca_pem: str, answer: EnrolAnswer, record: Record) -> None:
    """Write the enrolment. `enrolment.json` goes first if an old one is there, and comes last: it is the whole."""
    mark = state_dir / identity.RECORD
    if mark.exists():
        mark.unlink()
        sync_folder(state_dir)
    x509.save_key(state_dir / identity.TLS_KEY, keys.tls)
    write_atomic(state_dir / identity.CA, ca_pem.encode())
    write_atomic(state_dir / identity.CERTIFICATE, answer.certificate_pem.encode())
    write_atomic(mark, record.model_dump_json(indent=2).encode())
    _forget_joining(state_dir)


def _pin_operator(state_dir: Path, operator: x509.PublicKey | None) -> None:
    path = state_dir / identity.OPERATOR_KEY
    if operator is not None and not (path.exists() and path.read_bytes() == x509.public_pem(operator)):
        write_atomic(path, x509.public_pem(operator))


def _forget_joining(state_dir: Path) -> None:
    joining = state_dir / JOINING
    if joining.is_dir():
        for path in joining.iterdir():
            path.unlink()
        joining.rmdir()
        sync_folder(state_dir)


@contextmanager
def _alone(state_dir: Path) -> Iterator[None]:
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
