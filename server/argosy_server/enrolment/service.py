"""Who is let in. Bytes and an address in, an answer or a named error out; no HTTP here.

Each step is numbered as in docs/protocol.md, "Enrolment". Nothing is believed that was not proved: the device's name
comes from the identity key that signed the request, the certificate's key from the request it signed itself, and the
subject and extensions of the request are ignored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from argosy_common import x509
from argosy_common.enrolment import MAX_BODY, REFUSALS, BrokerAddress, EnrolAnswer, EnrolRequest, JoinToken
from argosy_common.errors import ArgosyError, RequestInvalid
from argosy_common.logs import get_logger
from argosy_server.ca import CertificateAuthority
from argosy_server.enrolment.rate import Doorkeeper
from argosy_server.store import Store
from argosy_server.store.enrolments import APPROVAL_S, Claim, Issued

log = get_logger(__name__)

Brokers = Callable[[], Sequence[tuple[str, int]]]
"""Returns where devices find the broker, as they are to try it."""
FormT = TypeVar("FormT", bound=BaseModel)


class EnrolmentService:
    """Checks requests and answers them. Safe to use from any thread."""

    def __init__(
        self,
        store: Store,
        ca: CertificateAuthority,
        *,
        doorkeeper: Doorkeeper,
        brokers: Brokers,
        approval_s: float = APPROVAL_S,
        life: timedelta = x509.DEVICE_LIFE,
    ) -> None:
        """Let devices in by `store` and `ca`, with certificates of `life`.

        A request waits `approval_s` seconds for an operator's approval.
        """
        self.ca_pem = ca.pem
        self._store = store
        self._ca = ca
        self._brokers = brokers
        self._approval_s = approval_s
        self._life = life
        self._doorkeeper = doorkeeper

    def enrol(self, body: bytes, source: str) -> EnrolAnswer:
        """Answer the request in `body`, which came from the address `source`; a refusal leaves a row in the audit log.

        Raises:
            TooManyAttempts: the address must wait; the request was not looked at.
            ApprovalPending: an operator must decide first; the same request again will be answered.
            RequestExpired: none decided in time.
            TokenMalformed, TokenUnknown, TokenExpired, TokenExhausted: what is wrong with the token.
            RequestInvalid: the request does not hold together.
            DeviceRefused: this identity may not enrol.
            BoardEnrolled: this board is enrolled under another identity.
            StorageFailed, DiskFull: the coordinator has troubles of its own; nothing was used up.
        """
        # 1. Rate.
        self._doorkeeper.admit(source)
        try:
            return self._checked(body, source)
        except REFUSALS as error:
            self._refused(error, source)
            raise

    def _checked(self, body: bytes, source: str) -> EnrolAnswer:
        # 2. Form.
        request = parse_body(body, EnrolRequest)
        token = JoinToken.parse(request.token)
        # 3. The sender holds the TLS key: it signed the certificate request.
        csr = x509.verify_csr(request.csr_pem.encode("utf-8", "replace"))
        csr_der = x509.csr_der(csr)
        # 4. The sender holds the identity key: it signed that very request.
        identity = x509.parse_public_pem(request.identity_public_pem.encode("utf-8", "replace"))
        x509.verify_enrolment(identity, csr_der, bytes.fromhex(request.identity_signature))
        device = x509.device_id(identity)
        if x509.node_id(device) < 2:
            raise RequestInvalid(why="Flower reserves the node ids 0 and 1; make another identity key")
        claim = Claim(
            token_id=token.id,
            secret=token.secret,
            csr_digest=hashlib.sha256(csr_der).hexdigest(),
            device=device,
            identity_public=x509.public_der(identity),
            name=request.name,
            inventory=dict(request.inventory),
            source=source,
        )
        # 5. The token: checked and burnt in the transaction that records the device and its certificate or request.
        enrolment = self._store.enrolments.enrol(
            claim, lambda: self._issue(device, x509.csr_key(csr)), approval_s=self._approval_s
        )
        log.info("enrolment.device", device=device, name=request.name, site=enrolment.site, source=source)
        return EnrolAnswer(
            device=device,
            node_id=x509.node_id(device),
            site=enrolment.site,
            certificate_pem=enrolment.certificate_pem,
            ca_pem=self.ca_pem,
            brokers=[BrokerAddress(host=host, port=port) for host, port in self._brokers()],
        )

    def _issue(self, device: str, tls_key: x509.PublicKey) -> Issued:
        return Issued.of(self._ca.issue_device(device, tls_key, self._life))

    def _refused(self, error: ArgosyError, source: str) -> None:
        log.warning("enrolment.refused", source=source, code=error.code, why=error.message)
        self._store.audit.write(source, "device.enrol-refused", error.code, why=error.message)
        self._doorkeeper.refused(source)


def parse_body(body: bytes, form: type[FormT]) -> FormT:
    """Return what a request says.

    Raises:
        RequestInvalid: it is too long, or not of this form.
    """
    if len(body) > MAX_BODY:
        raise RequestInvalid(why=f"it is longer than {MAX_BODY} bytes")
    try:
        return form.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:100]
        raise RequestInvalid(why=f"{where or 'the body'}: {first['msg'][:200]}") from None
