"""The asking side of an enrolment over HTTPS: the pin first, then the token. For boards, and for their stations.

Whoever calls needs a pin, and the token leaves this machine only when a server has proved that the pinned authority
vouches for it (docs/protocol.md, "Enrolment").
"""

from __future__ import annotations

import json
import re
import ssl

from pydantic import ValidationError

from argosy_common import x509
from argosy_common.coordinator_https import Address, blind_context, exchange
from argosy_common.enrolment import CA_PATH, ENROL_PATH, MAX_BODY, REFUSALS, EnrolAnswer, EnrolRequest
from argosy_common.errors import (
    ApprovalPending,
    ArgosyError,
    EnrolmentUnreachable,
    PinMismatch,
    RequestInvalid,
    SettingsInvalid,
    TooManyAttempts,
    error_from_wire,
)

_PIN = re.compile(r"sha256:[0-9a-f]{64}\Z")
_TOLD: tuple[type[ArgosyError], ...] = (*REFUSALS, ApprovalPending, TooManyAttempts)
"""What a coordinator may answer with, by name; the last two may end otherwise another time."""


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
