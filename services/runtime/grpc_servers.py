"""Makes the gRPC servers: what is around every call, in its order, and what is refused before. Knows no service."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import grpc.aio
from google.protobuf import descriptor_pool
from grpc_reflection.v1alpha import reflection

from klinecast.errors import KlinecastError
from services.runtime.app import App, Runtime
from services.runtime.auth import AccessTable, Authenticator, Role
from services.runtime.auth.credential import READ
from services.runtime.channel import server_options
from services.runtime.config import RuntimeSettings
from services.runtime.errors import RpcStatus, translate
from services.runtime.health import MOST_WATCHES
from services.runtime.interceptors.access_log import access_log_around
from services.runtime.interceptors.auth import Identify, auth_around, bearer, named_caller, open_around
from services.runtime.interceptors.call import Around, Method
from services.runtime.interceptors.cancellation import HEALTH_SERVICE, RunningCalls
from services.runtime.interceptors.chain import ChainInterceptor, Metadata
from services.runtime.interceptors.deadline import deadline_around
from services.runtime.interceptors.errors import errors_around
from services.runtime.interceptors.gate import gate_around
from services.runtime.interceptors.limit import CallLimits
from services.runtime.interceptors.metrics import RpcMetrics
from services.runtime.interceptors.tracing import tracing_around
from services.runtime.metrics import AuthMetrics
from services.runtime.tenancy import Caller

PROBE_BYTES = 1024
"""Largest message to the server that answers nothing but health."""


def new_server(
    settings: RuntimeSettings, runtime: Runtime, app: App, calls: RunningCalls, files: AuthMetrics
) -> grpc.aio.Server:
    """Return the server of a service, without its services."""
    limits, metrics = CallLimits(settings.limits), RpcMetrics(runtime.metrics)
    access = _access_by_path(app.access)
    if settings.reflection:
        access[f"/{reflection.SERVICE_NAME}/ServerReflectionInfo"] = READ
    identify: Identify = named_caller
    admitting = open_around()
    if settings.auth.is_on:
        authenticator = Authenticator(settings.auth, files.file_refused)
        identify, admitting = partial(bearer, authenticator), auth_around(authenticator, access, calls)

    def refuse(method: Method | None, metadata: Metadata) -> RpcStatus | None:
        refusal = _refusal(method, metadata, identify, limits)
        if refusal is not None and method is not None:
            metrics.count_refused(method, refusal.code.name)
        return refusal

    arounds = _arounds(runtime, metrics, admitting, limits, calls)
    return grpc.aio.server(
        interceptors=[ChainInterceptor(arounds, settings.limits.stream_stall_s, refuse)],
        options=server_options(settings.limits),
    )


def new_probed_server(settings: RuntimeSettings) -> grpc.aio.Server:
    """Return a server for nothing but health: it asks nobody for anything, so it takes in little."""
    limits = settings.limits.model_copy(
        update={"max_message_bytes": PROBE_BYTES, "max_concurrent_streams": MOST_WATCHES}
    )
    around = ChainInterceptor((errors_around,), limits.stream_stall_s, lambda method, metadata: None)
    return grpc.aio.server(interceptors=[around], options=server_options(limits))


def _refusal(method: Method | None, metadata: Metadata, identify: Identify, limits: CallLimits) -> RpcStatus | None:
    """Return what a call is told that can be refused before anything is spent on it: who calls comes first."""
    if method is not None and method.service == HEALTH_SERVICE:
        return limits.refusal(method, metadata, Caller("", is_service=False))
    try:
        caller = identify(metadata)
    except KlinecastError as error:
        return translate(error, "")
    return None if method is None else limits.refusal(method, metadata, caller)


def _access_by_path(access: Mapping[str, AccessTable]) -> dict[str, frozenset[Role]]:
    """Return the roles by path; every RPC of the contract has its row, so that none is open by oversight."""
    found = {}
    for service, table in access.items():
        methods = {method.name for method in descriptor_pool.Default().FindServiceByName(service).methods}
        if methods != set(table):
            raise RuntimeError(f"{service}: the access table and the contract differ in {sorted(methods ^ set(table))}")
        found.update({f"/{service}/{name}": roles for name, roles in table.items()})
    return found


def _arounds(
    runtime: Runtime, metrics: RpcMetrics, admitting: Around, limits: CallLimits, calls: RunningCalls
) -> tuple[Around, ...]:
    return (
        errors_around,  # outermost: nothing leaves the server that the table did not make
        tracing_around(runtime.tracer),
        errors_around,  # inside the span once more, so that its line in the log names the trace
        access_log_around,
        metrics.around,
        admitting,
        gate_around(runtime.migrated),
        deadline_around,
        calls.around,
        limits.around,  # inside: who waits for a turn has a deadline and is drained
    )
