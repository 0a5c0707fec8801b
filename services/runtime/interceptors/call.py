"""One RPC as the interceptors see it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import grpc
import grpc.aio

from services.runtime.errors import as_klinecast_error, code_of

CallType = Literal["unary", "client_stream", "server_stream", "bidi_stream"]


@dataclass(frozen=True, slots=True)
class Method:
    """Which RPC it is; `service` and `name` are what telemetry calls it."""

    path: str
    service: str
    name: str
    type: CallType


@dataclass(frozen=True, slots=True)
class Call:
    """One RPC in flight."""

    method: Method
    context: grpc.aio.ServicerContext[Any, Any]
    metadata: Mapping[str, str | bytes]
    correlation_id: str = field(default_factory=lambda: secrets.token_hex(8))

    def code(self, error: BaseException | None) -> grpc.StatusCode:
        """Return the status with which the RPC ends when its handler ended with `error`."""
        if error is None or isinstance(error, grpc.aio.AbortError):
            return self.context.code() or grpc.StatusCode.OK
        if isinstance(error, Exception) and not isinstance(error, grpc.aio.BaseError):
            return code_of(as_klinecast_error(error, self.correlation_id))
        return grpc.StatusCode.CANCELLED


Around = Callable[[Call], AbstractAsyncContextManager[None]]
"""Wraps a handler: what comes before the yield is before the call, exceptions of the handler pass through it."""


def method_of(path: str, *, request_streaming: bool, response_streaming: bool) -> Method:
    """Return the method of a path like /klinecast.api.data.v1.DataService/ListSeries."""
    service, _, name = path.strip("/").rpartition("/")
    return Method(path=path, service=service, name=name, type=_type_of(request_streaming, response_streaming))


def metadata_of(pairs: Any) -> Mapping[str, str | bytes]:
    """Return the metadata with one value per key, the last one sent."""
    return MappingProxyType({str(key): value for key, value in pairs or ()})


def _type_of(request_streaming: bool, response_streaming: bool) -> CallType:
    if response_streaming:
        return "bidi_stream" if request_streaming else "server_stream"
    return "client_stream" if request_streaming else "unary"
