"""Puts a list of arounds on a handler of any of the four call shapes; knows none of them.

Requests are parsed and unary responses written here, inside the arounds, so that malformed bytes meet the same table
of errors as everything else. Streams become coroutines that write: their generators are always
closed, in their own task.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Any, TypeAlias

import grpc
import grpc.aio

from klinecast.errors import FieldViolation, InvalidArgument, KlinecastError, ResourceExhausted
from services.runtime.errors import RpcStatus, build_status
from services.runtime.interceptors.call import Around, Call, Method, metadata_of, method_of

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Behaviour: TypeAlias = "Callable[[Any, Context], Any]"
Metadata: TypeAlias = Mapping[str, str | bytes]
Refuse: TypeAlias = Callable[[Method | None, Metadata], RpcStatus | None]
_UNKNOWN_METHOD = build_status(grpc.StatusCode.UNIMPLEMENTED, KlinecastError("no such method", reason="UNKNOWN_METHOD"))


class ChainInterceptor(grpc.aio.ServerInterceptor):
    """The only interceptor of a server; `arounds` are entered first to last, `stall_s` bounds each write.

    What `refuse` has a status for is answered with it at once, a tenth of what a call costs that enters the arounds.
    It is asked about unknown methods too, as None.
    """

    def __init__(self, arounds: Sequence[Around], stall_s: float, refuse: Refuse) -> None:
        self._arounds = tuple(arounds)
        self._stall_s = stall_s
        self._refuse = refuse

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Find the handler and wrap it."""
        handler = await continuation(handler_call_details)
        if handler is None:
            metadata = metadata_of(handler_call_details.invocation_metadata)
            return _refusing_handler(self._refuse(None, metadata) or _UNKNOWN_METHOD)
        method = method_of(
            handler_call_details.method,
            request_streaming=handler.request_streaming,
            response_streaming=handler.response_streaming,
        )
        metadata = metadata_of(handler_call_details.invocation_metadata)
        if (refusal := self._refuse(method, metadata)) is not None:
            return _refusing_handler(refusal)
        return wrap_handler(handler, method, metadata, self._arounds, self._stall_s)


def wrap_handler(
    handler: Handler, method: Method, metadata: Metadata, arounds: Sequence[Around], stall_s: float
) -> Handler:
    """Return a handler of the same shape that runs the given one inside the arounds."""
    respond = _stream_responder(handler, stall_s) if handler.response_streaming else _unary_responder(handler)

    async def behaviour(raw_request: Any, context: Context) -> Any:
        call = Call(method, context, metadata)
        async with AsyncExitStack() as stack:
            for around in arounds:
                await stack.enter_async_context(around(call))
            return await respond(_parsed(handler, raw_request), context)

    return _method_handler(handler, method, behaviour)


def _unary_responder(handler: Handler) -> Callable[[Any, Context], Awaitable[Any]]:
    behaviour, serialize = _behaviour(handler), handler.response_serializer

    async def respond(request: Any, context: Context) -> Any:
        response = await behaviour(request, context)
        return serialize(response) if serialize else response

    return respond


def _stream_responder(handler: Handler, stall_s: float) -> Callable[[Any, Context], Awaitable[None]]:
    behaviour = _behaviour(handler)
    if not inspect.isasyncgenfunction(behaviour):
        return behaviour

    async def respond(request: Any, context: Context) -> None:
        async with aclosing(behaviour(request, context)) as responses:
            async for response in responses:
                await _write(context, response, stall_s)

    return respond


async def _write(context: Context, response: Any, stall_s: float) -> None:
    try:
        async with asyncio.timeout(stall_s):
            await context.write(response)
    except TimeoutError:
        raise ResourceExhausted(f"the reader took nothing for {stall_s:g} s", reason="READER_STALLED") from None


def _behaviour(handler: Handler) -> Behaviour:
    behaviour: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    return behaviour  # type: ignore[no-any-return]


def _parsed(handler: Handler, raw_request: Any) -> Any:
    if handler.request_streaming:
        return _parsed_stream(handler, raw_request)
    return _parse(handler, raw_request)


async def _parsed_stream(handler: Handler, raw_requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for raw_request in raw_requests:
        yield _parse(handler, raw_request)


def _parse(handler: Handler, raw_request: Any) -> Any:
    if handler.request_deserializer is None:
        return raw_request
    try:
        return handler.request_deserializer(raw_request)
    except Exception:
        violation = FieldViolation("request", "the bytes are not this message")
        raise InvalidArgument.of(violation, reason="MALFORMED_REQUEST") from None


def _method_handler(handler: Handler, method: Method, behaviour: Behaviour) -> Handler:
    if method.type == "server_stream":
        return grpc.unary_stream_rpc_method_handler(behaviour, None, _serializer(handler))
    if method.type == "bidi_stream":
        return grpc.stream_stream_rpc_method_handler(behaviour, None, _serializer(handler))
    if method.type == "client_stream":
        return grpc.stream_unary_rpc_method_handler(behaviour, None, None)
    return grpc.unary_unary_rpc_method_handler(behaviour, None, None)


def _serializer(handler: Handler) -> Callable[[Any], bytes] | None:
    """Let hot streams yield the bytes of their messages, written without building the message first."""
    serialize = handler.response_serializer
    if serialize is None:
        return None
    return lambda message: message if type(message) is bytes else serialize(message)


def _refusing_handler(status: RpcStatus) -> Handler:
    async def refuse(requests: Any, context: Context) -> None:
        await context.abort(status.code, status.message, status.trailing_metadata)

    # The one shape that answers without waiting for a message, whatever shape the caller thinks it is.
    return grpc.stream_stream_rpc_method_handler(refuse)
