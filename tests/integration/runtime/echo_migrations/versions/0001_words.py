"""One table."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the table; unlike a service's, it can take its time, so that instances meet."""
    op.execute("SELECT pg_sleep(0.05)")
    op.create_table("words", sa.Column("word", sa.Text, primary_key=True), schema="echo")
    op.execute("INSERT INTO echo.words VALUES ('kline')")
