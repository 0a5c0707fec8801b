"""python -m services.<service> --migrate: what a Job runs before a rollout."""

import subprocess
import sys

import psycopg
import pytest

from services.local.process import with_variables
from services.runtime.database import libpq_url


@pytest.mark.parametrize("service", ["data", "backtest", "results"])
def test_it_brings_the_tables_and_ends(empty_database_url: str, service: str) -> None:
    def migrate() -> subprocess.CompletedProcess[str]:
        variables = {"KLINECAST_DATABASE__URL": empty_database_url}
        command = with_variables(variables, [sys.executable, "-m", f"services.{service}", "--migrate"])
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    for _ in range(2):  # the second finds nothing to do
        done = migrate()
        assert done.returncode == 0, done.stderr
    with psycopg.connect(libpq_url(empty_database_url)) as connection:
        query = "SELECT count(*) FROM information_schema.tables WHERE table_schema = %s"
        assert (connection.execute(query, (service,)).fetchone() or [0])[0] > 2
