"""What every test may ask for: databases, the shared real data, a seeded random source."""

import random
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.local.postgres import PostgresServer
from tests import postgres
from tests.broker import Broker, run_broker
from tests.suite import Suite, run_suite

ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that repeats a session's random choices."""
    parser.addoption("--seed", type=int, default=random.randrange(2**32), help="seed of the tests' random choices")


def pytest_report_header(config: pytest.Config) -> str:
    """Say how to repeat this session's random choices."""
    return f"random choices: --seed={config.getoption('seed')}"


@pytest.fixture(autouse=True)
def _seeded(seed: int) -> None:
    """Seed the global source by the test's name: its numbers do not depend on which tests ran before."""
    random.seed(seed)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Return an integer to seed a generator with; it differs between tests and repeats with the session's seed."""
    return random.Random(f"{request.config.getoption('seed')}:{request.node.nodeid}").randrange(2**32)


@pytest.fixture(scope="session")
def session_home() -> Iterator[Path]:
    """Return a directory for the state of embedded servers, removed when the session ends."""
    with postgres.make_home() as home:
        yield home


@pytest.fixture(scope="session")
def postgres_server(session_home: Path) -> Iterator[PostgresServer]:
    """Return the session's Postgres. Never stop it: restartable_postgres is for that."""
    with postgres.run_server(session_home) as server:
        yield server


@pytest.fixture(scope="session")
def template_database(postgres_server: PostgresServer) -> str:
    """Return the name of a database in which the migrations of every service have run."""
    return postgres.build_template(postgres_server)


@pytest.fixture
def database_url(postgres_server: PostgresServer, template_database: str) -> Iterator[str]:
    """Return the URL of a database of the test's own, all services' tables in it."""
    with postgres.copy_database(postgres_server, template_database) as url:
        yield url


@pytest.fixture
def empty_database_url(postgres_server: PostgresServer) -> Iterator[str]:
    """Return the URL of a database of the test's own with nothing in it, for tests of migrations."""
    with postgres.copy_database(postgres_server, "template0") as url:
        yield url


@pytest.fixture
def restartable_postgres(session_home: Path) -> Iterator[PostgresServer]:
    """Return a started server of the test's own: stop(), kill() and start() it at will; its URL stays the same."""
    with postgres.run_server(session_home, name=f"own-{uuid.uuid4().hex[:8]}") as server:
        yield server


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the directory of real klines and oracles beside the checkout."""
    directory = ROOT.parent / "shared"
    if not directory.is_dir():
        pytest.skip(f"the shared real data is not at {directory}")
    return directory


@pytest.fixture(scope="session")
def suite(session_home: Path, postgres_server: PostgresServer, template_database: str) -> Iterator[Suite]:
    """Return the three services as processes, shared by the session's tests: kill nothing of it."""
    with (
        postgres.copy_database(postgres_server, template_database) as url,
        run_suite(session_home / "suite", url, REFLECTION="true") as suite,
    ):
        yield suite


@pytest.fixture
def own_suite(session_home: Path, database_url: str) -> Iterator[Suite]:
    """Return the three services as processes of the test's own, to be killed at will."""
    with run_suite(session_home / f"suite-{uuid.uuid4().hex[:8]}", database_url) as suite:
        yield suite


@pytest.fixture
def broker(session_home: Path) -> Iterator[Broker]:
    """Return a broker of the test's own: kill() and start() it at will."""
    with run_broker(session_home / f"broker-{uuid.uuid4().hex[:8]}") as broker:
        yield broker


@pytest.fixture(scope="session")
def celery_suite(
    session_home: Path, postgres_server: PostgresServer, template_database: str
) -> Iterator[tuple[Suite, Broker]]:
    """Return the services with workers behind a broker, shared by the session's tests: kill nothing of it."""
    with (
        postgres.copy_database(postgres_server, template_database) as url,
        run_broker(session_home / "broker") as broker,
        run_suite(session_home / "celery-suite", url, EXECUTOR="celery", BROKER_URL=broker.url) as suite,
    ):
        yield suite, broker


@pytest.fixture
def own_celery_suite(session_home: Path, database_url: str, broker: Broker) -> Iterator[Suite]:
    """Return the services and a process with two workers that listens at the broker, to be killed at will."""
    home = session_home / f"suite-{uuid.uuid4().hex[:8]}"
    settings = {"EXECUTOR": "celery", "BROKER_URL": broker.url, "SHUTDOWN__DRAIN_SECONDS": "1"}
    with run_suite(home, database_url, **settings) as suite:
        yield suite
