"""A whole deployment of its own, every part of which may be killed: Postgres, broker, services, workers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from services.local.postgres import PostgresServer
from tests import postgres
from tests.broker import Broker, run_broker
from tests.suite import Suite, run_suite

EXECUTORS = ("local", "celery")


@dataclass(frozen=True, slots=True)
class Deployment:
    """Its parts."""

    suite: Suite
    server: PostgresServer
    url: str
    broker: Broker | None


@contextlib.contextmanager
def deploy(home: Path, executor: str, **settings: str) -> Iterator[Deployment]:
    """Yield a started deployment on an executor; nothing of it is left at the end."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(postgres.run_server(home, name=f"chaos-{executor}"))
        url = server.url(postgres.build_template(server, name="chaos"))
        broker = stack.enter_context(run_broker(home / f"broker-{executor}")) if executor == "celery" else None
        if broker is not None:
            settings |= {"EXECUTOR": executor, "BROKER_URL": broker.url}
        suite = stack.enter_context(run_suite(home / f"suite-{executor}", url, **settings))
        yield Deployment(suite, server, url, broker)
