"""States of devices, the requests of those that wait, and every certificate that was issued."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op
from cryptography import x509

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables to this revision."""
    op.add_column("tokens", sa.Column("approve", sa.Boolean, nullable=False, server_default=sa.true()))
    op.add_column("devices", sa.Column("renamed", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("devices", sa.Column("request_digest", sa.Text))
    op.add_column("devices", sa.Column("request_token", sa.Text))
    op.add_column("devices", sa.Column("request_ends_at", sa.DateTime))
    certificates = op.create_table(
        "certificates",
        sa.Column("serial", sa.Text, primary_key=True),
        sa.Column("device", sa.Text, sa.ForeignKey("devices.device"), nullable=False),
        sa.Column("not_after", sa.DateTime, nullable=False),
        sa.Column("issued_at", sa.DateTime, nullable=False),
        sa.Column("revoked_at", sa.DateTime),
    )
    op.create_index("certificates_device", "certificates", ["device"])
    op.execute("UPDATE devices SET state = 'revoked' WHERE state = 'refused'")
    found = {row["serial"]: row for row in _issued(op.get_bind())}
    if found:
        op.bulk_insert(certificates, list(found.values()))


def _issued(connection: sa.Connection) -> list[dict[str, object]]:
    """Return the certificates that the tables remember; those of devices that were shut out count as revoked."""
    shut_out = {device for (device,) in connection.execute(sa.text("SELECT device FROM devices WHERE state='revoked'"))}
    now = datetime.now(UTC).replace(tzinfo=None)
    rows: list[dict[str, object]] = []
    for table in ("enrolments", "devices"):
        for device, pem in connection.execute(sa.text(f"SELECT device, certificate_pem FROM {table}")):  # noqa: S608  (two names of our own)
            try:
                certificate = x509.load_pem_x509_certificate(pem.encode())
            except ValueError:
                continue  # a row that some test or repair wrote: nobody can connect with it
            rows.append(
                {
                    "serial": f"{certificate.serial_number:x}",
                    "device": device,
                    "not_after": certificate.not_valid_after_utc.replace(tzinfo=None),
                    "issued_at": certificate.not_valid_before_utc.replace(tzinfo=None),
                    "revoked_at": now if device in shut_out else None,
                }
            )
    return rows
