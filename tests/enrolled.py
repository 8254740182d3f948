"""Devices that are enrolled without having joined: what a token would leave behind, many at once."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

from argosy_common import x509
from argosy_common.clock import SystemClock
from argosy_common.link import TlsFiles
from argosy_server.ca import CertificateAuthority
from argosy_server.store import DeviceRow, DeviceState, Store
from argosy_server.store.devices import put_device


def enrol(store: Store, authority: Path, folder: Path, count: int) -> dict[str, TlsFiles]:
    """Enrol devices in one transaction, all with one TLS key in `folder`; return what each shows to the broker."""
    ca = CertificateAuthority.open(authority, SystemClock())
    key, made = x509.generate_key(), {}
    x509.save_key(folder / "tls.key", key)
    now = datetime.now(UTC)
    with store._database.write() as session:
        for _ in range(count):
            device = secrets.token_hex(8)
            pem = x509.chain_pem(*ca.issue_device(device, key.public_key()))
            (folder / f"{device}.crt").write_bytes(pem)
            row = DeviceRow(
                device=device,
                name=f"light-{device}",
                site="default",
                tags=[],
                state=DeviceState.ENROLLED,
                identity_public=b"\0",
                certificate_pem=pem.decode(),
                not_after=now + timedelta(days=7),
                inventory={},
                enrolled_at=now,
                last_seen_at=None,
                version="",
                boot="",
                machine="",
            )
            put_device(session, row)
            made[device] = TlsFiles(ca.ca_path, folder / f"{device}.crt", folder / "tls.key", x509.COORDINATOR)
    return made
