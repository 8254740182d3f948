"""The asking side of an enrolment and of a renewal over HTTPS. For boards, and for their stations.

Whoever calls needs a pin, and nothing but the question for the authority leaves this machine before a server has
proved that the pinned authority vouches for it (docs/protocol.md, "Enrolment").
"""

from __future__ import annotations

import json
import re
import ssl
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from argosy_common import x509
from argosy_common.coordinator_https import Address, blind_context, exchange
from argosy_common.enrolment import CA_PATH, ENROL_PATH, MAX_BODY, REFUSALS, EnrolAnswer, EnrolRequest
from argosy_common.errors import (
    ApprovalPending,
    ArgosyError,
    EnrolmentUnreachable,
    PinMismatch,
    RenewalRefused,
    RequestInvalid,
    SettingsInvalid,
    TooManyAttempts,
    error_from_wire,
)
from argosy_common.renewal import RENEW_PATH, RenewAnswer, RenewRequest, Standing

_PIN = re.compile(r"sha256:[0-9a-f]{64}\Z")
_TOLD: tuple[type[ArgosyError], ...] = (*REFUSALS, RenewalRefused, ApprovalPending, TooManyAttempts)
"""What a coordinator may answer with, by name; the last two may end otherwise another time."""

FormT = TypeVar("FormT", bound=BaseModel)


def parse_pin(text: str) -> str:
    """Return a pin as we compare it.

    Raises:
        SettingsInvalid: it is none.
    """
    pin = text.strip().lower()
    if not _PIN.match(pin):
        raise SettingsInvalid(name="pin", why="it must read sha256: and 64 hexadecimal digits", source="the command")
    return pin


def fetch_authority(address: Address, pin: str) -> str:
    """Fetch the authority from whoever answers, and believe it only if its public key is the pinned one.

    The pin names a key, and the certificate's own signature was made with that key: its dates do not matter.

    Raises:
        EnrolmentUnreachable: no proper answer.
        PinMismatch: another authority.
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


def send_request(address: Address, pin: str, ca_pem: str, request: EnrolRequest) -> EnrolAnswer:
    """Send the request to a server that the pinned authority vouches for, and to nobody else.

    Raises:
        EnrolmentUnreachable: no proper answer; the same request may be repeated and burns nothing more.
        PinMismatch: the server does not belong to that authority; the token was not sent.
        TokenUnknown, TokenExpired, TokenExhausted, RequestInvalid, DeviceRefused, TooManyAttempts: it refused.
    """
    trust = x509.coordinator_trust(ca_pem)
    return _ask(address, pin, trust, "POST", ENROL_PATH, request, answer=EnrolAnswer)


def fetch_standing(address: Address, pin: str, ca_pem: str, serial: str) -> Standing:
    """Ask how much of a certificate's time is left.

    Raises:
        EnrolmentUnreachable: no proper answer.
        PinMismatch: the server does not belong to that authority.
        RenewalRefused: the coordinator does not know the certificate.
        TooManyAttempts: it wants to be asked later.
    """
    return _ask(address, pin, x509.coordinator_trust(ca_pem), "GET", f"{RENEW_PATH}/{serial}", None, answer=Standing)


def send_renewal(address: Address, pin: str, tls: ssl.SSLContext, request: RenewRequest) -> RenewAnswer:
    """Ask for the next certificate; `tls` trusts the authority, and shows the present certificate unless it has ended.

    Raises:
        EnrolmentUnreachable: no proper answer; the same request may be repeated.
        PinMismatch: the server does not belong to that authority.
        RenewalRefused, RequestInvalid, DeviceRefused, TooManyAttempts: it refused.
    """
    return _ask(address, pin, tls, "POST", RENEW_PATH, request, answer=RenewAnswer)


def _ask(  # noqa: PLR0917  (as `exchange` has them, and the form of the answer)
    address: Address,
    pin: str,
    tls: ssl.SSLContext,
    method: str,
    path: str,
    request: BaseModel | None,
    *,
    answer: type[FormT],
) -> FormT:
    """Ask a server that proves to be the pinned authority's."""
    body = None if request is None else request.model_dump_json().encode()
    try:
        got = exchange(address, tls, method, path, body)
    except ssl.SSLCertVerificationError as error:
        found = f"a server certificate that it did not issue: {error.verify_message}"
        raise PinMismatch(url=address.url, found=found, expected=pin) from None
    if got.status != 200:
        raise _refusal(address, got.status, got.body)
    try:
        return answer.model_validate_json(got.body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        why = f"its answer cannot be used: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
        raise EnrolmentUnreachable(url=address.url, why=why) from None


def _refusal(address: Address, status: int, body: bytes) -> ArgosyError:
    try:
        told = json.loads(body[:MAX_BODY])
    except ValueError:
        told = None
    error = error_from_wire(told) if isinstance(told, dict) else None
    if isinstance(error, _TOLD):
        return error
    why = f"it could not answer just now (status {status}, {error.code if error else 'no reason given'})"
    return EnrolmentUnreachable(url=address.url, why=why)
