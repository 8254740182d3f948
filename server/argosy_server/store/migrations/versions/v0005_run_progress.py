"""How far a run is: what it takes to go on with it after its coordinator was killed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables to this revision."""
    op.create_table(
        "run_progress",
        sa.Column("run", sa.Integer, sa.ForeignKey("runs.id"), primary_key=True),
        sa.Column("salt", sa.Text, nullable=False),
        sa.Column("resumable", sa.Boolean, nullable=False),
        sa.Column("resumes", sa.Integer, nullable=False),
        sa.Column("done_round", sa.Integer, nullable=False),
        sa.Column("done_phase", sa.Text, nullable=False),
        sa.Column("record_digest", sa.Text),
        sa.Column("record_size", sa.Integer, nullable=False),
        sa.Column("arrays_digest", sa.Text),
        sa.Column("arrays_size", sa.BigInteger, nullable=False),
        sa.Column("begun_round", sa.Integer, nullable=False),
        sa.Column("begun_phase", sa.Text, nullable=False),
        sa.Column("nodes", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text),
    )
