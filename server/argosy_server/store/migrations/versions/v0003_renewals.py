"""Which request a renewed certificate was issued for, so that the same request gets the same certificate."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables to this revision."""
    op.add_column("certificates", sa.Column("csr_digest", sa.Text))
