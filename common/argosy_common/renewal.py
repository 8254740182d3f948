"""What a device and the coordinator say to each other when a certificate is renewed (docs/protocol.md, "Renewal").

    GET  /v1/renew/{serial}  → Standing: how much of the certificate's time is left, by the coordinator's clock
    POST /v1/renew           RenewRequest → RenewAnswer, or an error as `ArgosyError.to_wire` writes it

The device shows the certificate that it has, unless that has ended: then the signature of its identity key alone speaks
for it, for as long as the coordinator's grace lasts.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from argosy_common.enrolment import BrokerAddress, Pem

RENEW_PATH = "/v1/renew"
DUE = 2 / 3
"""The share of its life after which a certificate is renewed."""
SPREAD = 1 / 12
"""The share of its life over which a fleet's renewals are spread from there on."""

Serial = Annotated[str, Field(pattern=r"^[0-9a-f]{1,40}$")]
"""A certificate's number, hexadecimal; at most 20 bytes (RFC 5280, 4.1.2.2)."""
Seconds = Annotated[float, Field(allow_inf_nan=False, ge=-1e10, le=1e10)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Standing(_Part):
    """How a certificate stands. Durations, since a board's clock may show any time."""

    left_s: Seconds
    """Seconds until it ends; negative once it has."""
    life_s: Annotated[Seconds, Field(gt=0)]
    """Seconds from its issue to its end."""

    @property
    def ended(self) -> bool:
        """Whether a broker refuses it."""
        return self.left_s <= 0

    def due_in_s(self, jitter: float) -> float:
        """Return the seconds until it is to be renewed, for a device whose place in the spread is `jitter` (0 to 1)."""
        return self.left_s - self.life_s * (1 - DUE - SPREAD * jitter)


class RenewRequest(_Part):
    """A device asks for its next certificate."""

    device: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    serial: Serial
    """Of the certificate that it has."""
    csr_pem: Pem
    """Signed by the new TLS key."""
    identity_signature: Annotated[str, Field(max_length=256, pattern=r"^(?:[0-9a-f]{2})*$")]
    """Hexadecimal; see `x509.sign_renewal`."""


class RenewAnswer(_Part):
    """A device's next certificate."""

    certificate_pem: Pem
    """As in `EnrolAnswer`."""
    brokers: Annotated[list[BrokerAddress], Field(min_length=1, max_length=64)]
    """To be tried in this order; they may be others than at enrolment."""
