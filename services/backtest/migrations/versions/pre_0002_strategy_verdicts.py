"""What was seen of a strategy when it was looked at, by the hash of its code."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "strategy_verdicts",
        sa.Column("code_hash", sa.Text, nullable=False),
        sa.Column("strategy", sa.Text, nullable=False),
        sa.Column("kline_index", sa.Integer),
        sa.Column("unproven", sa.Text),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.clock_timestamp()),
        sa.PrimaryKeyConstraint("code_hash", "strategy"),
        schema="backtest",
    )
