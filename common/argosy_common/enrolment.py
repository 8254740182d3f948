"""What a device and the coordinator say to each other when the device joins (HTTPS, docs/protocol.md, "Enrolment").

    GET  /v1/ca     → the authority's certificate in PEM; fetched without trust, believed only if the pin matches
    POST /v1/enrol  EnrolRequest → EnrolAnswer, or an error as `ArgosyError.to_wire` writes it

The token is a password: it is sent only after the server has proved that the pinned authority vouches for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field

from argosy_common.errors import (
    ArgosyError,
    BoardEnrolled,
    DeviceRefused,
    RequestExpired,
    RequestInvalid,
    TokenExhausted,
    TokenExpired,
    TokenMalformed,
    TokenUnknown,
)

CA_PATH = "/v1/ca"
ENROL_PATH = "/v1/enrol"
DEFAULT_PORT = 8444
MAX_BODY = 64 * 1024
"""Bytes of a request or an answer; more is refused unread."""

REFUSALS: tuple[type[ArgosyError], ...] = (
    TokenMalformed,
    TokenUnknown,
    TokenExpired,
    TokenExhausted,
    RequestInvalid,
    RequestExpired,
    DeviceRefused,
    BoardEnrolled,
)
"""Errors that are the coordinator's last word on a request: the same again is refused again."""

_TOKEN = re.compile(r"([0-9a-f]{8})\.([A-Za-z0-9_-]{32})\Z")

Pem = Annotated[str, Field(max_length=16 * 1024)]
Text = Annotated[str, Field(max_length=256)]
Fact = bool | int | Annotated[float, Field(allow_inf_nan=False)] | Text
Facts = Annotated[dict[Text, Fact], Field(max_length=64)]
"""What a board is, by name: its inventory on its way."""
Host = Annotated[str, Field(min_length=1, max_length=255)]
Port = Annotated[int, Field(ge=1, le=65535)]


@dataclass(frozen=True)
class JoinToken:
    """A join token: `id.secret`."""

    id: str
    secret: str = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Take a token's text apart.

        Raises:
            TokenMalformed: it is none; the message does not repeat it.
        """
        match = _TOKEN.match(text.strip())
        if match is None:
            raise TokenMalformed(why="it must be 8 hexadecimal digits, a dot, and 32 letters, digits, '-' or '_'")
        return cls(*match.groups())


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class EnrolRequest(_Part):
    """A device asks for its certificate."""

    token: Annotated[str, Field(max_length=128, repr=False)]
    csr_pem: Pem
    """Signed by the TLS key, which the certificate will be for."""
    identity_public_pem: Pem
    identity_signature: Annotated[str, Field(max_length=256, pattern=r"^(?:[0-9a-f]{2})*$")]
    """Hexadecimal; see `x509.sign_enrolment`."""
    name: Text = ""
    inventory: Facts = {}


class BrokerAddress(_Part):
    """Where the broker may be reached."""

    host: Host
    port: Port


class EnrolAnswer(_Part):
    """A device is enrolled."""

    device: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    node_id: Annotated[int, Field(ge=2, lt=2**64)]
    site: Text
    certificate_pem: Pem
    """The certificate, then those between it and the root."""
    ca_pem: Pem
    """The root."""
    brokers: Annotated[list[BrokerAddress], Field(min_length=1, max_length=64)]
    """To be tried in this order."""
