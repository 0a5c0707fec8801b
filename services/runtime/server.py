"""Runs one service: settings, telemetry, migrations, gRPC, health, metrics page and a stop that loses nothing."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial

import grpc.aio
from grpc_reflection.v1alpha import reflection

from services.runtime.app import App, BuildApp, Runtime, SettingsT
from services.runtime.channel import server_options
from services.runtime.config import RuntimeSettings, SettingsError, load_settings, scan_environment, show_settings
from services.runtime.database import Database
from services.runtime.errors import is_database_away
from services.runtime.health import Health
from services.runtime.interceptors.access_log import access_log_around
from services.runtime.interceptors.call import Around
from services.runtime.interceptors.cancellation import RunningCalls
from services.runtime.interceptors.chain import ChainInterceptor
from services.runtime.interceptors.deadline import deadline_around
from services.runtime.interceptors.errors import errors_around
from services.runtime.interceptors.gate import gate_around
from services.runtime.interceptors.limit import limit_around
from services.runtime.interceptors.metrics import RpcMetrics
from services.runtime.interceptors.tenant import tenant_around
from services.runtime.interceptors.tracing import tracing_around
from services.runtime.lifecycle import (
    in_daemon_thread,
    is_loopback,
    split_address,
    stop_on_signals,
    stop_with_supervisor,
    write_port_file,
)
from services.runtime.logs import configure_logging, get_logger
from services.runtime.metrics import MetricsServer, new_registry, start_metrics_server
from services.runtime.migrations import Migrations, migrate
from services.runtime.tracing import configure_tracing

RETRY_S = 1.0
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
    shows = _parse(service, arguments).show_settings
    try:
        settings = load_settings(settings_cls)
        if shows:
            print(show_settings(settings))
            return
        _configure_process(service, settings)
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
        await server.wait(stop)
        _LOG.info("stopping")
    _LOG.info("stopped")


@asynccontextmanager
async def running(
    service: str, settings: SettingsT, build_app: BuildApp[SettingsT], *, migrations: Migrations | None = None
) -> AsyncIterator[RunningServer]:
    """Run a server in this event loop for the length of the block; its end is the graceful stop."""
    host, _ = _checked_address(settings)
    runtime, calls = _new_runtime(service, settings), RunningCalls()
    page = _start_page(runtime, settings)
    try:
        async with build_app(settings, runtime) as app:
            health = Health(app.service_names)
            server = _new_server(settings, runtime, calls)
            port = await _start(server, app, health, settings)
            migrating = asyncio.create_task(_migrate(runtime, migrations))
            following = asyncio.create_task(_follow(health, runtime, app))
            _announce(settings, host, port, page.port)
            try:
                yield RunningServer(host, port, page.port, runtime, migrating)
            finally:
                await _stop(server, health, calls, runtime, settings)
                await _cancel(following, migrating)
    finally:
        await runtime.database.close()
        await in_daemon_thread(partial(_close_telemetry, runtime, page))


def _parse(service: str, arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"python -m services.{service}", description="Settings come from the environment, prefix KLINECAST_."
    )
    parser.add_argument("--show-settings", action="store_true", help="print the settings, secrets masked, and exit")
    return parser.parse_args(arguments)


def _configure_process(service: str, settings: RuntimeSettings) -> None:
    configure_logging(settings.log_level, settings.log_format, service)
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
    if not is_loopback(host) and not settings.insecure_bind_without_tls:
        raise SettingsError(
            (
                f"KLINECAST_LISTEN: {settings.listen} is reachable from other machines, this server speaks plaintext; "
                "set KLINECAST_INSECURE_BIND_WITHOUT_TLS=true if the network is yours",
            )
        )
    return host, port


def _new_runtime(service: str, settings: RuntimeSettings) -> Runtime:
    return Runtime(
        service=service,
        database=Database(settings.database, application_name=f"klinecast-{service}"),
        metrics=new_registry(),
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


def _new_server(settings: RuntimeSettings, runtime: Runtime, calls: RunningCalls) -> grpc.aio.Server:
    return grpc.aio.server(
        interceptors=[ChainInterceptor(_arounds(settings, runtime, calls), settings.limits.stream_stall_s)],
        options=server_options(settings.limits),
    )


def _arounds(settings: RuntimeSettings, runtime: Runtime, calls: RunningCalls) -> tuple[Around, ...]:
    return (
        errors_around,  # outermost: nothing leaves the server that the table did not make
        tracing_around(runtime.tracer),
        errors_around,  # inside the span once more, so that its line in the log names the trace
        access_log_around,
        RpcMetrics(runtime.metrics).around,
        tenant_around,
        gate_around(runtime.migrated),
        limit_around(settings.limits.max_concurrent_rpcs),
        deadline_around,
        calls.around,
    )


async def _start(server: grpc.aio.Server, app: App, health: Health, settings: RuntimeSettings) -> int:
    app.register(server)
    await health.register(server)
    if settings.reflection:
        names = (*app.service_names, "grpc.health.v1.Health", reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
    try:
        port = server.add_insecure_port(settings.listen)
    except RuntimeError:
        raise StartError(f"KLINECAST_LISTEN: cannot bind {settings.listen}") from None
    await server.start()
    return port


def _announce(settings: RuntimeSettings, host: str, port: int, metrics_port: int) -> None:
    if settings.port_file:
        write_port_file(settings.port_file, {"port": port, "metrics_port": metrics_port})
    _LOG.info("listening", address=f"{host}:{port}", metrics_port=metrics_port)


async def _migrate(runtime: Runtime, migrations: Migrations | None) -> None:
    while migrations is not None:
        try:
            work = partial(migrate, runtime.database.url, migrations.schema, migrations.script_location)
            await in_daemon_thread(work)
            break
        except Exception as error:
            if not is_database_away(error):
                _LOG.error("migration_failed", schema=migrations.schema, exc_info=error)
                raise StartError(f"the migrations of schema {migrations.schema} failed; the log says why") from None
            _LOG.warning("migration_waits_for_database", schema=migrations.schema, error=type(error).__name__)
        await asyncio.sleep(RETRY_S)
    runtime.migrated.set()


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
