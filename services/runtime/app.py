"""What a service gives the server (App) and what the server gives a service (Runtime)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import grpc.aio
from opentelemetry import trace
from prometheus_client import CollectorRegistry

from services.runtime.auth import AccessTable
from services.runtime.config import RuntimeSettings
from services.runtime.database import Database
from services.runtime.errors import shutting_down
from services.runtime.logs import Logger
from services.runtime.tracing import Tracing


@dataclass(frozen=True, slots=True)
class Runtime:
    """What every service is given."""

    service: str
    database: Database
    metrics: CollectorRegistry
    """Telemetry metrics are registered here, never on the library's global registry."""
    tracing: Tracing
    """Channels to other services carry its spans on by a TraceCarrier."""
    logger: Logger
    shutdown: asyncio.Event
    """Set when the process begins to stop: endless streams then end with `check_running`."""
    migrated: asyncio.Event
    """Set once the tables are there; background loops wait for it."""

    @property
    def tracer(self) -> trace.Tracer:
        """The tracer of spans inside a call."""
        return self.tracing.tracer

    def check_running(self) -> None:
        """Raise the resumable Unavailable (SHUTTING_DOWN) once the process begins to stop."""
        if self.shutdown.is_set():
            raise shutting_down()


class App(Protocol):
    """A service, built and open; its context manager closes it."""

    @property
    def access(self) -> Mapping[str, AccessTable]:
        """Full names of its gRPC services, and for each of their RPCs, by name, the roles that may call it."""

    def register(self, server: grpc.aio.Server) -> None:
        """Add its servicers."""

    async def ready(self) -> bool:
        """Tell whether it can work, the database apart; asked each second."""


SettingsT = TypeVar("SettingsT", bound=RuntimeSettings)
BuildApp = Callable[[SettingsT, Runtime], AbstractAsyncContextManager[App]]
"""Opens the service without touching the database: it may be away, or its tables not there yet."""
