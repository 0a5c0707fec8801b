"""What callers are told when something is wrong, over real sockets."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from structlog.testing import capture_logs

SERVICE = "klinecast.test.EchoService"
Call = Callable[..., Any]


async def failure(call: Any) -> tuple[grpc.StatusCode, str, str]:
    """Return code, reason and text of a call that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    error = raised.value
    status = Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    return error.code(), info.reason, error.details() or ""


def raw(channel: grpc.aio.Channel, name: str) -> Any:
    """Return a unary RPC that sends bytes as they are."""
    return channel.unary_unary(f"/{SERVICE}/{name}")


@pytest.mark.parametrize("payload", [b"\x0a\xff", b"\x0a\x02\xff\xfe"], ids=["truncated", "invalid UTF-8"])
async def test_malformed_request_is_an_invalid_argument(channel: grpc.aio.Channel, payload: bytes) -> None:
    code, reason, text = await failure(raw(channel, "Echo")(payload))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST")
    assert "StringValue" not in text


async def test_malformed_message_of_an_upload_is_an_invalid_argument(channel: grpc.aio.Channel) -> None:
    call = channel.stream_unary(f"/{SERVICE}/Join")(iter([StringValue(value="a").SerializeToString(), b"\x0a\xff"]))
    assert (await failure(call))[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST")


async def test_upload_is_read_to_its_end(channel: grpc.aio.Channel) -> None:
    words = [StringValue(value=word).SerializeToString() for word in ("a", "b")]
    answer = await channel.stream_unary(f"/{SERVICE}/Join")(iter(words))
    assert StringValue.FromString(answer).value == "a b"


async def test_bad_field_is_named(call: Call) -> None:
    assert await failure(call("Echo")) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "value: is empty")


async def test_unexpected_exception_tells_only_a_correlation_id(call: Call) -> None:
    with capture_logs() as logged:
        code, reason, text = await failure(call("Fail"))
    assert (code, reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert text.startswith("internal error, correlation id ")
    lines = [line for line in logged if line["event"] == "unexpected_error"]
    assert [line["correlation_id"] for line in lines] == [text.rpartition(" ")[2]]


async def test_cancellation_from_within_still_has_a_status(call: Call) -> None:
    assert (await failure(call("CancelWithin", timeout=5)))[0] is grpc.StatusCode.INTERNAL


async def test_answer_that_cannot_be_written_tells_nothing(call: Call) -> None:
    code, _, text = await failure(call("WrongAnswer"))
    assert code is grpc.StatusCode.INTERNAL
    assert text.startswith("internal error")


async def test_exception_in_a_stream_comes_after_its_messages(stream: Call) -> None:
    call = stream("Count", "then fail")
    received = [(await call.read()).value for _ in range(3)]
    assert received == ["0", "1", "2"]
    assert (await failure(call.read()))[0] is grpc.StatusCode.INTERNAL


async def test_unknown_method_has_a_reason(call: Call) -> None:
    assert (await failure(call("Ecko")))[:2] == (grpc.StatusCode.UNIMPLEMENTED, "UNKNOWN_METHOD")


async def test_message_over_the_limit_is_refused(call: Call) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call("Echo", "x" * (5 * 1024 * 1024))
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_tenant_comes_from_the_metadata(call: Call) -> None:
    assert (await call("Echo", "w")).value == "default:w"
    assert (await call("Echo", "w", metadata=(("klinecast-tenant", "acme"),))).value == "acme:w"


async def test_bad_tenant_name_is_refused(call: Call) -> None:
    code, _, text = await failure(call("Echo", "w", metadata=(("klinecast-tenant", "a b"),)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "klinecast-tenant" in text


async def test_unary_call_without_deadline_gets_one(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.runtime.interceptors.deadline.DEFAULT_DEADLINE_S", 0.05)
    code, reason, _ = await failure(call("Sleep"))
    assert (code, reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")


async def test_cancelled_streams_leave_no_task(stream: Call) -> None:
    calls = [stream("Watch") for _ in range(100)]
    for call in calls:
        await call.read()
        call.cancel()
    async with asyncio.timeout(5):
        while handlers := [task for task in asyncio.all_tasks() if task.get_name().startswith("HandleExceptions")]:
            await asyncio.wait(handlers)
