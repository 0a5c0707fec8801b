"""Backtests whose result has gone say so."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the mark; nothing is known of old rows, so all are looked at."""
    column = sa.Column("result_expired", sa.Boolean, nullable=False, server_default=sa.false())
    op.add_column("backtests", column, schema="backtest")
