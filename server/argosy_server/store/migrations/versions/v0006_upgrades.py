"""Rollouts of the devices' own packages, whose versions are texts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables to this revision."""
    op.add_column("rollouts", sa.Column("label", sa.Text, nullable=False, server_default=""))
