"""The results service as deployed: a process, its migrations, a real Postgres, a real socket."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from klinecast.client import Client
from services.runtime.database import libpq_url
from tests import postgres
from tests.results import Replica, run_replicas


@pytest.fixture(scope="module")
def results_url(postgres_server, template_database: str) -> Iterator[str]:
    """Return the database of the module's results."""
    with postgres.copy_database(postgres_server, template_database) as url:
        yield url


@pytest.fixture(scope="module")
def replica(session_home: Path, results_url: str) -> Iterator[Replica]:
    """Return a results service shared by the module's tests."""
    home = session_home / f"results-{uuid.uuid4().hex[:8]}"
    with run_replicas(home, results_url, {"KLINECAST_SWEEP_EVERY_S": "0.1"}) as [one]:
        yield one


@pytest.fixture
def client(replica: Replica) -> Iterator[Client]:
    """Return a client of a tenant of the test's own."""
    with replica.client(tenant=f"t{uuid.uuid4().hex[:10]}") as client:
        yield client


@pytest.fixture
def database(results_url: str) -> Iterator[psycopg.Connection]:
    """Return a connection to the module's database, autocommit."""
    with psycopg.connect(libpq_url(results_url), autocommit=True) as connection:
        yield connection
