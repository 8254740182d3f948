"""Shutting a device out at once, by every means there is.

1. The gateway takes nothing of it and sends it nothing, and no blob is served to it (the database says so).
2. The broker's access list refuses it everything: a live session can neither publish nor receive from then on.
3. Its certificates are on the revocation list: the broker refuses every new handshake.
4. Its live session is ended: the authority makes a certificate of the same name that is good for minutes, and a
   connection under it takes the session over, as MQTT has it, and says goodbye. Whatever was queued goes with it.

Each alone is not enough: Mosquitto reads 2 and 3 again at a SIGHUP, but keeps sessions that are there. The order
matters: what is ended by 4 must find 3 in force when it comes back.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509 as cx509
from cryptography.hazmat.primitives import hashes, serialization

from argosy_common import x509
from argosy_common.clock import Clock
from argosy_common.link import Link, LinkSettings, TlsFiles
from argosy_common.logs import get_logger

log = get_logger(__name__)

TAKE_OVER_S = 5.0
"""How long the broker may take to let us end a session."""
TAKE_OVER_LIFE = timedelta(minutes=5)
_SECOND = timedelta(seconds=1)


def revocation_list(
    ca: cx509.Certificate, ca_key: x509.PrivateKey, serials: Iterable[int], now: datetime, before: bytes | None
) -> bytes:
    """Return the PEM of the authority's list of revoked certificates, newer than the list `before`.

    OpenSSL takes the newer of two lists by its date, which counts seconds: a list of the same second would be passed
    over. The list ends with the authority, not before: a broker that holds an old one must not refuse the whole fleet.
    A list `before` of the future, made while the clock was ahead, is no measure: what followed it would be of the
    future too, and no broker would let anybody in.
    """
    made_at = (now - x509.BACKDATED).replace(microsecond=0)
    if before is not None:
        following = cx509.load_pem_x509_crl(before).last_update_utc + _SECOND
        made_at = max(made_at, following) if following <= now else made_at
    builder = (
        cx509.CertificateRevocationListBuilder()
        .issuer_name(ca.subject)
        .last_update(made_at)
        .next_update(max(ca.not_valid_after_utc, made_at + _SECOND))
        .add_extension(cx509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    )
    for serial in sorted(set(serials)):
        revoked = cx509.RevokedCertificateBuilder().serial_number(serial).revocation_date(made_at).build()
        builder = builder.add_revoked_certificate(revoked)
    return builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def end_session(
    device: str,
    key: x509.PrivateKey,
    chain_pem: bytes,
    authority: Path,
    broker: tuple[str, int],
    *,
    clock: Clock,
    rng: random.Random,
) -> bool:
    """Take the device's session at the broker over and end it; tell whether the broker let us.

    The certificate in `chain_pem`, for `key`, has the device's name. Where the broker takes names from certificates
    (and any that we describe does), nobody else could do this. Takes `TAKE_OVER_S` and a little at most.
    """
    with tempfile.TemporaryDirectory(prefix=".take-over-", dir=authority.parent) as folder:
        files = TlsFiles(authority, Path(folder) / "tls.crt", Path(folder) / "tls.key", x509.COORDINATOR)
        x509.save_key(files.key, key)
        files.cert.write_bytes(chain_pem)
        host, port = broker
        settings = LinkSettings(host=host, port=port, client_id=device, tls=files, session_expiry_s=0)
        link = Link(settings, clock=clock, rng=rng)
        link.start()
        try:
            return link.wait_connected(TAKE_OVER_S)
        finally:
            link.stop(1.0)
