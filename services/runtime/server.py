"""Runs one service: settings, telemetry, migrations, gRPC, health, metrics page and a stop that loses nothing."""

from __future__ import annotations

import argparse
import asyncio
import gc
import math
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial

import grpc.aio
from grpc_reflection.v1alpha import reflection

from services.runtime.app import App, BuildApp, Runtime, SettingsT
from services.runtime.config import RuntimeSettings, SettingsError, load_settings, scan_environment, show_settings
from services.runtime.database import Database, libpq_url
from services.runtime.errors import is_database_away
from services.runtime.grpc_servers import new_probed_server, new_server
from services.runtime.health import Health
from services.runtime.interceptors.cancellation import RunningCalls
from services.runtime.lifecycle import (
    give_up_privileges,
    in_daemon_thread,
    is_loopback,
    split_address,
    stop_on_signals,
    stop_with_supervisor,
    write_port_file,
)
from services.runtime.logs import configure_logging, get_logger
from services.runtime.metrics import AuthMetrics, DatabaseCollector, MetricsServer, new_registry, start_metrics_server
from services.runtime.migrations import Migrations, migrate
from services.runtime.tls import Certificates
from services.runtime.tracing import configure_tracing

RETRY_S = 1.0
MIGRATE_WAIT_S = 300.0
"""How long `--migrate` tries again while the database is away or its tables are locked; what runs is never cut off."""
STOP_GRACE_S = 1.0
"""After the drain: what the last statuses have to leave the socket."""
_LOG = get_logger(__name__)


class StartError(Exception):
    """The process cannot start; the text is one line for people."""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that answers."""

    host: str
    port: int
    metrics_port: int
    runtime: Runtime
    migrating: asyncio.Task[None]

    @property
    def target(self) -> str:
        """What a client on this machine dials."""
        return f"{self.host}:{self.port}"

    async def wait(self, stop: asyncio.Event) -> None:
        """Return when told to stop; raise when the migrations failed for good."""
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait({stopping, self.migrating}, return_when=asyncio.FIRST_COMPLETED)
            if self.migrating.done():
                self.migrating.result()
                await stopping
        finally:
            stopping.cancel()


def run(
    service: str,
    settings_cls: type[SettingsT],
    build_app: BuildApp[SettingsT],
    *,
    migrations: Migrations | None = None,
    arguments: Sequence[str] | None = None,
) -> None:
    """Be the whole of a service's __main__; exits 0 after a stop, 2 on bad settings, 1 when it cannot run."""
    asked = _parse(service, arguments)
    try:
        settings = load_settings(settings_cls)
        if asked.show_settings:
            print(show_settings(settings))
            return
        _configure_process(service, settings)
        if asked.migrate:
            asyncio.run(bring_up_to_date(settings, migrations))
            return
        asyncio.run(serve(service, settings, build_app, migrations=migrations))
    except SettingsError as error:
        sys.exit(_complain(error.problems, code=2))
    except StartError as error:
        sys.exit(_complain((str(error),), code=1))


async def serve(
    service: str, settings: SettingsT, build_app: BuildApp[SettingsT], *, migrations: Migrations | None = None
) -> None:
    """Run until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    stop_on_signals(stop)
    async with running(service, settings, build_app, migrations=migrations) as server:
        gc.collect()
        gc.freeze()  # a full collection that looks at every module stops all calls for a tenth of a second
        await server.wait(stop)
        _LOG.info("stopping")
    _LOG.info("stopped")


async def bring_up_to_date(
    settings: RuntimeSettings, migrations: Migrations | None, *, wait_s: float = MIGRATE_WAIT_S
) -> None:
    """Run the migrations and nothing else; StartError when they cannot be run for so long, or fail."""
    await _migrate(libpq_url(settings.database.url.get_secret_value()), migrations, wait_s)
    _LOG.info("migrated")


@asynccontextmanager
async def running(
    service: str, settings: SettingsT, build_app: BuildApp[SettingsT], *, migrations: Migrations | None = None
) -> AsyncIterator[RunningServer]:
    """Run a server in this event loop for the length of the block; its end is the graceful stop."""
    host, _ = _checked_address(settings)
    runtime, calls = _new_runtime(service, settings), RunningCalls()
    files = AuthMetrics(service, runtime.metrics)
    page = _start_page(runtime, settings)
    try:
        async with build_app(settings, runtime) as app:
            health = Health(tuple(app.access))
            probed = await _start_probed(health, settings)
            server = new_server(settings, runtime, app, calls, files)
            port = await _start(server, app, health, settings, files)
            migrating = asyncio.create_task(_prepare(runtime, migrations))
            following = asyncio.create_task(_follow(health, runtime, app))
            _announce(settings, host, {"port": port, "metrics_port": page.port, **probed.ports})
            try:
                yield RunningServer(host, port, page.port, runtime, migrating)
            finally:
                await _stop(server, health, calls, runtime, settings)
                await probed.stop()
                await _cancel(following, migrating)
    finally:
        await runtime.database.close()
        await in_daemon_thread(partial(_close_telemetry, runtime, page))


def _parse(service: str, arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"python -m services.{service}", description="Settings come from the environment, prefix KLINECAST_."
    )
    parser.add_argument("--show-settings", action="store_true", help="print the settings, secrets masked, and exit")
    parser.add_argument("--migrate", action="store_true", help="bring the tables up to date and exit")
    return parser.parse_args(arguments)


def _configure_process(service: str, settings: RuntimeSettings) -> None:
    configure_logging(settings.log_level, settings.log_format, service)
    give_up_privileges()
    for name in scan_environment(type(settings)).ignored:
        _LOG.warning("setting_ignored", name=name, reason="injected by Kubernetes for a Service")
    if settings.supervisor_pipe_fd is not None:
        stop_with_supervisor(settings.supervisor_pipe_fd)


def _complain(problems: tuple[str, ...], *, code: int) -> int:
    for problem in problems:
        print(problem, file=sys.stderr)
    return code


def _checked_address(settings: RuntimeSettings) -> tuple[str, int]:
    host, port = split_address(settings.listen)
    problems = []
    if not settings.tls.is_on and not settings.insecure_bind_without_tls:
        problems.append(
            f"KLINECAST_LISTEN: {settings.listen} is reachable from other machines, this server speaks plaintext; set "
            "KLINECAST_TLS__CERTIFICATE_FILE, or KLINECAST_INSECURE_BIND_WITHOUT_TLS=true if the network is yours"
        )
    if not settings.auth.is_on and not settings.insecure_bind_without_auth:
        problems.append(
            f"KLINECAST_LISTEN: {settings.listen} is reachable from other machines, this server answers everybody; set "
            "KLINECAST_AUTH__JWKS_FILE or KLINECAST_AUTH__TOKENS_FILE, or KLINECAST_INSECURE_BIND_WITHOUT_AUTH=true if "
            "all of them may"
        )
    if problems and not is_loopback(host):
        raise SettingsError(tuple(problems))
    return host, port


def _new_runtime(service: str, settings: RuntimeSettings) -> Runtime:
    database, registry = Database(settings.database, application_name=f"klinecast-{service}"), new_registry()
    registry.register(DatabaseCollector(service, lambda: database.connections))
    return Runtime(
        service=service,
        database=database,
        metrics=registry,
        tracing=configure_tracing(service, settings.tracing),
        logger=get_logger(f"klinecast.{service}"),
        shutdown=asyncio.Event(),
        migrated=asyncio.Event(),
    )


def _start_page(runtime: Runtime, settings: RuntimeSettings) -> MetricsServer:
    try:
        return start_metrics_server(runtime.metrics, settings.metrics_listen)
    except OSError as error:
        raise StartError(f"KLINECAST_METRICS_LISTEN: cannot bind {settings.metrics_listen}: {error.strerror}") from None


async def _start(
    server: grpc.aio.Server, app: App, health: Health, settings: RuntimeSettings, files: AuthMetrics
) -> int:
    app.register(server)
    await health.register(server)
    if settings.reflection:
        names = (*app.access, "grpc.health.v1.Health", reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
    certificates = Certificates(settings.tls, files.file_refused) if settings.tls.is_on else None
    if certificates is not None:
        files.certificate_expires(certificates.expire_at)
    port = _bind(server, "LISTEN", settings.listen, certificates)
    await server.start()
    return port


def _bind(server: grpc.aio.Server, name: str, address: str, certificates: Certificates | None = None) -> int:
    try:
        if certificates is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, certificates.credentials())
    except RuntimeError:
        raise StartError(f"KLINECAST_{name}: cannot bind {address}") from None


@dataclass(frozen=True, slots=True)
class _Probed:
    """The server that probes ask where the other one speaks TLS; none by default."""

    server: grpc.aio.Server | None = None
    port: int = 0

    @property
    def ports(self) -> dict[str, int]:
        return {} if self.server is None else {"health_port": self.port}

    async def stop(self) -> None:
        if self.server is not None:
            await self.server.stop(None)


async def _start_probed(health: Health, settings: RuntimeSettings) -> _Probed:
    if settings.health_listen is None:
        return _Probed()
    server = new_probed_server(settings)
    await health.register(server)
    port = _bind(server, "HEALTH_LISTEN", settings.health_listen)
    await server.start()
    return _Probed(server, port)


def _announce(settings: RuntimeSettings, host: str, ports: dict[str, int]) -> None:
    if settings.port_file:
        write_port_file(settings.port_file, ports)
    _LOG.info("listening", address=f"{host}:{ports['port']}", tls=settings.tls.is_on, auth=settings.auth.is_on, **ports)


async def _prepare(runtime: Runtime, migrations: Migrations | None) -> None:
    await _migrate(runtime.database.url, migrations, math.inf)
    runtime.migrated.set()


async def _migrate(url: str, migrations: Migrations | None, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while migrations is not None:
        try:
            await in_daemon_thread(partial(migrate, url, migrations.schema, migrations.script_location))
            return
        except Exception as error:
            if not is_database_away(error):
                _LOG.error("migration_failed", schema=migrations.schema, exc_info=error)
                raise StartError(f"the migrations of schema {migrations.schema} failed; the log says why") from None
            if time.monotonic() >= deadline:
                raise StartError(f"KLINECAST_DATABASE__URL: no migration in {wait_s:g} s: {_cause(error)}") from None
            _LOG.warning("migration_waits_for_database", schema=migrations.schema, error=_cause(error))
        await asyncio.sleep(RETRY_S)


def _cause(error: Exception) -> str:
    """Return the driver's name of what went wrong: a database that is away and a lock are different errands."""
    return type(getattr(error, "orig", None) or error).__name__


async def _follow(health: Health, runtime: Runtime, app: App) -> None:
    await runtime.migrated.wait()
    await health.follow(partial(_is_ready, runtime, app))


async def _is_ready(runtime: Runtime, app: App) -> bool:
    return await runtime.database.ping() and await app.ready()


async def _stop(
    server: grpc.aio.Server, health: Health, calls: RunningCalls, runtime: Runtime, settings: RuntimeSettings
) -> None:
    await health.stop()
    await asyncio.sleep(settings.shutdown.prestop_seconds)
    runtime.shutdown.set()
    drain_s = settings.shutdown.drain_seconds
    leaving = asyncio.create_task(server.stop(drain_s + STOP_GRACE_S))  # clients are told to go elsewhere
    await calls.drain(drain_s)
    await server.stop(STOP_GRACE_S)
    await leaving


async def _cancel(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError, StartError):
            await task


def _close_telemetry(runtime: Runtime, page: MetricsServer) -> None:
    runtime.tracing.shutdown()
    page.close()
