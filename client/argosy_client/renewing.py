"""What renewing the certificate does on the board's disk.

    request = prepare(state_dir)           a new key and its request, in `renewing/`
    keep(enrolment, request, answer)       the coordinator's answer, checked, beside them: a pair that can be tried
    enrolment = adopt(enrolment)           it has connected: `renewing/` becomes `tls-…/`, and the record names that

The pair in force is not touched before its successor has connected once, and is removed when that is in force. Cut
anywhere, the device has a pair that works: `enrolment.json` names it, and what it does not name is a try or a leftover.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from argosy_client import identity
from argosy_client.identity import CERTIFICATE, TLS_KEY, Enrolment
from argosy_client.tls_request import TlsRequest, forget, kept_request
from argosy_common import x509
from argosy_common.errors import CertificateInvalid, EnrolmentUnreachable, RequestInvalid
from argosy_common.files import sync_folder, write_atomic
from argosy_common.link import TlsFiles
from argosy_common.logs import get_logger
from argosy_common.renewal import RenewAnswer

log = get_logger(__name__)

RENEWING = "renewing"
ANSWER = "answer.json"
"""The coordinator's answer as it came, written last: without it there is nothing to try."""


def prepare(state_dir: Path) -> TlsRequest:
    """Return the renewal's key and request; they are the same until `adopt` or `give_up`.

    Raises:
        OSError: as the file system reports it.
    """
    return kept_request(state_dir / RENEWING)


def keep(enrolment: Enrolment, request: TlsRequest, answer: RenewAnswer) -> None:
    """Check the coordinator's answer and keep it: from now on there is a `candidate`.

    Raises:
        EnrolmentUnreachable: the answer would not work; nothing was written.
        OSError: as the file system reports it.
    """
    why = _unusable(enrolment, request, answer)
    if why:
        raise EnrolmentUnreachable(url=enrolment.url, why=f"its answer cannot be used: {why}")
    folder = enrolment.state_dir / RENEWING
    write_atomic(folder / CERTIFICATE, answer.certificate_pem.encode())
    write_atomic(folder / ANSWER, answer.model_dump_json().encode())


def candidate(enrolment: Enrolment) -> TlsFiles | None:
    """Return the files of the pair that is to be tried; None where there is none that holds together."""
    folder = enrolment.state_dir / RENEWING
    if not (folder / ANSWER).exists():
        return None
    try:
        certificate = x509.load_certificate(folder / CERTIFICATE)
        fits = x509.same_key(certificate, x509.load_key(folder / TLS_KEY).public_key())
    except CertificateInvalid as error:
        log.warning("renewal.candidate_broken", why=error.message)
        return None
    return TlsFiles(enrolment.ca_path, folder / CERTIFICATE, folder / TLS_KEY, x509.COORDINATOR) if fits else None


def adopt(enrolment: Enrolment) -> Enrolment:
    """Put the pair that was tried in force; return the enrolment as it reads back.

    Raises:
        CertificateInvalid: it does not hold together; the old pair stays in force.
        OSError: as the file system reports it; whichever pair is in force then works.
    """
    state_dir, folder = enrolment.state_dir, enrolment.state_dir / RENEWING
    try:
        brokers = RenewAnswer.model_validate_json((folder / ANSWER).read_bytes()).brokers
    except ValidationError:
        raise CertificateInvalid(path=folder / ANSWER, why="it is no answer of a coordinator") from None
    pair = f"tls-{x509.short_fingerprint(x509.load_key(folder / TLS_KEY).public_key())}"
    record = identity.read_record(state_dir).model_copy(update={"pair": pair, "brokers": brokers})
    folder.replace(state_dir / pair)
    sync_folder(state_dir)
    identity.write_record(state_dir, record)
    forget_pairs(state_dir, but=pair)
    return Enrolment.load(state_dir)


def give_up(state_dir: Path) -> None:
    """Forget the renewal under way, its key included."""
    forget(state_dir / RENEWING)


def forget_pairs(state_dir: Path, *, but: str) -> None:
    """Remove the pairs that are not in force; `but` is the record's."""
    for folder in state_dir.glob("tls-*"):
        if folder.name != but:
            forget(folder)
    if but:  # the pair of the join, which lies in the state directory itself
        for name in (TLS_KEY, CERTIFICATE):
            (state_dir / name).unlink(missing_ok=True)


def _unusable(enrolment: Enrolment, request: TlsRequest, answer: RenewAnswer) -> str | None:
    """Tell what is wrong with an answer."""
    try:
        chain = x509.parse_chain(answer.certificate_pem.encode())
        certificate = chain[0]
    except RequestInvalid as error:
        return error.message
    if x509.subject_cn(certificate) != enrolment.device:
        return "the certificate is for another device"
    if not x509.same_key(certificate, request.key.public_key()):
        return "the certificate is for another key"
    if not x509.chains_to(chain, x509.load_certificate(enrolment.ca_path)):
        return "another authority issued the certificate"
    return None
