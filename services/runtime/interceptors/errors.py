"""Outermost: every exception becomes a status by the one table; faults of ours are logged, never told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc.aio

from services.runtime.errors import is_unexpected, translate
from services.runtime.interceptors.call import Call
from services.runtime.logs import get_logger

_LOG = get_logger(__name__)


@asynccontextmanager
async def errors_around(call: Call) -> AsyncIterator[None]:
    """Abort the call with the status of what its handler raised; its own cancellation passes."""
    try:
        yield
    except (grpc.aio.BaseError, asyncio.CancelledError):
        raise  # aborted already, or nobody is there to be told
    except Exception as error:
        if is_unexpected(error):
            _LOG.error("unexpected_error", method=call.method.path, correlation_id=call.correlation_id, exc_info=error)
        status = translate(error, call.correlation_id)
        await call.context.abort(status.code, status.message, status.trailing_metadata)
