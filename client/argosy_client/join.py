"""How a device joins (docs/protocol.md, "Enrolment"): a URL, a token and a pin in, an `Enrolment` on disk out.

Interrupted anywhere, the same command again completes it: `joining` keeps the keys and the request, and the coordinator
answers a repeated request with the same certificate and does not count the token again.
"""

from __future__ import annotations

from pathlib import Path

from argosy_client.approval import Patience, until_decided
from argosy_client.identity import Enrolment
from argosy_client.joining import Invitation, confirm, exclusively, kept_keys, settle, standing
from argosy_common import x509
from argosy_common.clock import Clock
from argosy_common.coordinator_https import Address
from argosy_common.enrolment import JoinToken
from argosy_common.enrolment_https import fetch_authority, parse_pin, send_request
from argosy_common.logs import get_logger

log = get_logger(__name__)


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
    token_id = JoinToken.parse(token).id
    pin = parse_pin(pin)
    invitation = Invitation(address.url, pin, token_id)
    with exclusively(state_dir):
        there, operator = standing(state_dir, invitation, operator, force=force)
        if there is not None:
            return confirm(there, operator)
        keys = kept_keys(state_dir)
        ca_pem = fetch_authority(address, pin)
        request = keys.request(token.strip(), name)
        answer = until_decided(lambda: send_request(address, pin, ca_pem, request), patience or Patience(), clock)
        enrolment = settle(state_dir, keys, invitation, answer, ca_pem=ca_pem, operator=operator)
        seconds = clock.monotonic() - began
        log.info("join.enrolled", device=enrolment.device, site=enrolment.site, url=address.url, seconds=seconds)
        return enrolment
