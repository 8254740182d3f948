"""Keys and certificates: P-256 throughout, one private certificate authority, no public trust store anywhere.

Rules:
- A device has two keys: the *identity key* stays for life and gives the device its name; the *TLS key* is renewed.
- A request (CSR) proves only that its sender holds the key: its subject and extensions are never copied.
- A board's clock may stand in 1970. What a device verifies (the authority, the coordinator's server certificate) is
  therefore valid from 1970 on, and `coordinator_trust` leaves the time of day out altogether. What the coordinator
  verifies (a device's certificate) has honest dates, since the coordinator's clock is the one that is trusted.
- The root signs intermediates only, and may be offline; an intermediate issues all else. So what an end shows is its
  *chain*: its own certificate, then the intermediate's. Whoever has the root can check that. (A certificate that a root
  issued itself, as the first versions did, is a chain of one.)
- The coordinator is known by the name `COORDINATOR`, a subject alternative name of its server certificate, not by the
  address at which a device happens to reach it (NAT, port forwarding, DHCP).

Modules: `keys`, `requests`, `issuing`, `certificates`; all that others need is here.
"""

from argosy_common.x509.certificates import (
    certificate_key,
    certificate_pem,
    chain_pem,
    chains_to,
    coordinator_trust,
    issued_by,
    load_certificate,
    load_chain,
    may_sign_code,
    parse_certificate,
    parse_chain,
    same_key,
    serial_text,
    spki_pin,
    subject_cn,
)
from argosy_common.x509.issuing import (
    BACKDATED,
    CA_LIFE,
    COORDINATOR,
    DEVICE_LIFE,
    EPOCH,
    INTERMEDIATE_LIFE,
    SERVER_LIFE,
    issue_client,
    issue_intermediate,
    issue_server,
    issue_signer,
    self_signed_ca,
)
from argosy_common.x509.keys import (
    PrivateKey,
    PublicKey,
    device_id,
    fingerprint,
    generate_identity_key,
    generate_key,
    in_groups,
    key_pem,
    load_key,
    load_public_key,
    node_id,
    parse_public_der,
    parse_public_pem,
    public_der,
    public_pem,
    save_key,
    short_fingerprint,
)
from argosy_common.x509.requests import (
    csr_der,
    csr_key,
    make_csr,
    sign_enrolment,
    sign_renewal,
    verify_csr,
    verify_enrolment,
    verify_renewal,
)

__all__ = [
    "BACKDATED",
    "CA_LIFE",
    "COORDINATOR",
    "DEVICE_LIFE",
    "EPOCH",
    "INTERMEDIATE_LIFE",
    "SERVER_LIFE",
    "PrivateKey",
    "PublicKey",
    "certificate_key",
    "certificate_pem",
    "chain_pem",
    "chains_to",
    "coordinator_trust",
    "csr_der",
    "csr_key",
    "device_id",
    "fingerprint",
    "generate_identity_key",
    "generate_key",
    "in_groups",
    "issue_client",
    "issue_intermediate",
    "issue_server",
    "issue_signer",
    "issued_by",
    "key_pem",
    "load_certificate",
    "load_chain",
    "load_key",
    "load_public_key",
    "make_csr",
    "may_sign_code",
    "node_id",
    "parse_certificate",
    "parse_chain",
    "parse_public_der",
    "parse_public_pem",
    "public_der",
    "public_pem",
    "same_key",
    "save_key",
    "self_signed_ca",
    "serial_text",
    "short_fingerprint",
    "sign_enrolment",
    "sign_renewal",
    "spki_pin",
    "subject_cn",
    "verify_csr",
    "verify_enrolment",
    "verify_renewal",
]
