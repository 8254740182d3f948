"""Who may say what runs on the boards: a key whose certificate comes from the authority that devices pinned.

The coordinator signs with a key of its own for this purpose alone (certificate: common name `models`, extended key
usage code signing). A statement of what a signature is for goes before the bytes, so that none can stand for another.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import BaseModel, ConfigDict, Field

from argosy_common import x509
from argosy_common.errors import RequestInvalid, SignatureInvalid

SIGNER = "models"
"""The common name of the certificate that signs models."""


class Purpose(Enum):
    """What a signature is for."""

    MANIFEST = b"argosy/model/v1"
    """This is a version of a model."""
    ROLLBACK = b"argosy/rollback/v1"
    """Boards may go back from any higher version of the model to this one. Signed: the manifest's bytes."""


class Signature(BaseModel):
    """A signature and what it takes to check it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    value: Annotated[str, Field(max_length=256, pattern=r"^(?:[0-9a-f]{2})*$")]
    """ECDSA with SHA-256, DER, hexadecimal."""
    certificate_pem: Annotated[str, Field(max_length=16 * 1024)]
    """The signer's certificate, then those between it and the root."""


def sign(key: x509.PrivateKey, certificate_pem: str, purpose: Purpose, data: bytes) -> Signature:
    """Sign `data` for a purpose."""
    value = key.sign(purpose.value + b"\0" + data, ec.ECDSA(hashes.SHA256()))
    return Signature(value=value.hex(), certificate_pem=certificate_pem)


def verify(signature: Signature, purpose: Purpose, data: bytes, root_pem: str) -> None:
    """Check a signature against the pinned root. Dates are not looked at: a board's clock may show any time.

    Raises:
        SignatureInvalid: it is not for these bytes and this purpose, or its key is not the authority's for models.
    """
    try:
        chain = x509.parse_chain(signature.certificate_pem.encode())
        root = x509.parse_certificate(root_pem.encode())
    except RequestInvalid as error:
        raise SignatureInvalid(why=error.facts["why"]) from None
    if not x509.chains_to(chain, root):
        raise SignatureInvalid(why="another authority issued the signer's certificate")
    if x509.subject_cn(chain[0]) != SIGNER or not x509.may_sign_code(chain[0]):
        raise SignatureInvalid(why="the signer's certificate is not for models")
    try:
        key = x509.certificate_key(chain[0])
        key.verify(bytes.fromhex(signature.value), purpose.value + b"\0" + data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise SignatureInvalid(why="it does not fit what it should have signed") from None
