"""A deployment that speaks TLS and asks for tokens, shared by the tests of this folder."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from klinecast.client import Client
from services.local.postgres import PostgresServer
from tests import postgres
from tests.security import Secured
from tests.suite import Suite, run_suite


@pytest.fixture(scope="package")
def secured(session_home: Path) -> Secured:
    return Secured(session_home / "security")


@pytest.fixture(scope="package")
def secured_suite(
    session_home: Path, postgres_server: PostgresServer, template_database: str, secured: Secured
) -> Iterator[Suite]:
    """Return the three services: kill nothing of it, and leave its keys as they are."""
    with (
        postgres.copy_database(postgres_server, template_database) as url,
        run_suite(session_home / "secured-suite", url, **secured.settings()) as suite,
    ):
        yield suite


@pytest.fixture
def connect(secured_suite: Suite, secured: Secured) -> Iterator[Callable[..., Client]]:
    """Return a function that makes a client with a token of these roles; its tenant is one of its own by default."""
    clients = []

    def connect(*roles: str, tenant: str | None = None) -> Client:
        token = secured.provider.token(tenant or f"tenant-{uuid.uuid4().hex[:8]}", *roles)
        clients.append(secured_suite.client(security=secured.security(token)))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()
