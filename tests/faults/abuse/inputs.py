"""Requests that no honest client makes: what they are told, and what they cost the server."""

from __future__ import annotations

import math
import random
import re
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from google.protobuf import struct_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from klinecast.api.backtest.v1 import backtest_pb2, backtest_service_pb2
from klinecast.api.data.v1 import data_service_pb2
from klinecast.api.market.v1 import series_pb2
from klinecast.api.results.v1 import results_service_pb2
from tests.faults.abuse.row import Row
from tests.faults.abuse.wire import Answer, ForeignClient, message
from tests.suite import Suite

MEGABYTE = 1_000_000
GROWTH_MB = 10.0
CHEAP_MS = 100.0
SERVICES: dict[str, ServiceDescriptor] = {
    "data": data_service_pb2.DESCRIPTOR.services_by_name["DataService"],
    "backtest": backtest_service_pb2.DESCRIPTOR.services_by_name["BacktestService"],
    "results": results_service_pb2.DESCRIPTOR.services_by_name["ResultsService"],
}
OK, INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNKNOWN, INTERNAL = "0", "3", "8", "2", "13"
_INTERNALS = ("Traceback", "psycopg", "sqlalchemy", "SELECT", "postgresql", "services/", "site-packages", "_pb2", ".py")
"""What would tell a caller how the service is made."""
_PATH = "/klinecast.api.data.v1.DataService/GetSeries"


def path_of(method: MethodDescriptor) -> str:
    """Return the path of an RPC."""
    return f"/{method.containing_service.full_name}/{method.name}"


def text_of(answer: Answer) -> str:
    """Return all that an answer tells, details included."""
    return f"{answer.headers} {answer.body!r}"


def tells_internals(text: str) -> list[str]:
    """Return what a text gives away."""
    return [word for word in _INTERNALS if word in text]


def bombs(suite: Suite) -> Iterator[Row]:
    """Send what is too large, as it is, as it claims to be or once it is inflated."""
    packer = zlib.compressobj(wbits=31)
    bomb = packer.compress(bytes(200 * MEGABYTE)) + packer.flush()
    gzip, big = [("grpc-encoding", "gzip")], message(bytes(5 * MEGABYTE))
    yield _refused(suite, "G1", "a request of 5 MB", lambda client: client.call(_PATH, big))
    claim = message(b"", length=2**31)
    yield _refused(suite, "G1", "a request that says it has 2 GB", lambda client: client.call(_PATH, claim, ends=False))
    packed = message(bomb, compressed=True)
    yield _refused(suite, "G2", "200 MB of zeros, gzipped", lambda client: client.call(_PATH, packed, metadata=gzip))
    value = [("x-filler", "x" * 20_000)]
    yield _refused(suite, "G3", "20 KB of metadata", lambda client: client.call(_PATH, message(b""), metadata=value))


def _refused(suite: Suite, row: str, injected: str, send: Callable[[ForeignClient], Answer]) -> Row:
    process, grown = Path(f"/proc/{suite.process('data').pid}"), math.inf
    for _ in range(3):  # whatever else the process just did is not in every round; what a bomb takes is
        before = _peak(process, anew=True)
        for _ in range(5):
            with ForeignClient(suite.target("data")) as client:
                answer = send(client)
        grown = min(grown, (_peak(process) - before) / MEGABYTE)
    held = answer.status == RESOURCE_EXHAUSTED and grown < GROWTH_MB
    return Row(row, injected, answer.status, f"{grown:.1f} MB more", f"RESOURCE_EXHAUSTED, < {GROWTH_MB:g} MB", held)


def _peak(process: Path, *, anew: bool = False) -> int:
    """Return the most memory a process had resident, in bytes, since it was last asked to begin anew."""
    if anew:
        (process / "clear_refs").write_text("5")
    return 1024 * int(re.findall(r"VmHWM:\s+(\d+)", (process / "status").read_text())[0])


def garbage(suite: Suite) -> Row:
    """Send bytes that are no message, to every RPC."""
    payloads = {"truncated": b"\x0a\xff\xff\xff\x7f", "bad UTF-8": b"\x0a\x02\xff\xfe", "a closed group": b"\x0c"}
    statuses, told = set(), []
    for name, service in SERVICES.items():
        for method in service.methods:
            for payload in payloads.values():
                answer = send(suite, name, method, payload)
                statuses.add(answer.status)
                told += tells_internals(text_of(answer))
    count = sum(len(service.methods) for service in SERVICES.values())
    held = not told and not statuses & {UNKNOWN, INTERNAL}
    seen = ", ".join(sorted(statuses))
    return Row("G4", f"garbage, bad UTF-8 to {count} RPCs", seen, f"{len(told)} internals told", "0, no 2, no 13", held)


STRANGER = [("klinecast-tenant", "stranger")]
"""A tenant of its own: what comes through sets policies and deletes results."""


def send(suite: Suite, name: str, method: MethodDescriptor, payload: bytes, timeout_s: float = 5.0) -> Answer:
    """Send one message to an RPC; what does not end by itself in time counts as its beginning."""
    with ForeignClient(suite.target(name)) as client:
        try:
            return client.call(path_of(method), message(payload), metadata=STRANGER, timeout_s=timeout_s)
        except TimeoutError:
            return Answer({"grpc-status": "0"})


@dataclass(slots=True)
class Fuzz:
    """Random messages of every request type, built field by field, some of their bytes then broken."""

    suite: Suite
    seed: int
    sent: int = 0
    statuses: dict[str, int] | None = None

    def run(self, seconds: float) -> Row:
        """Send for so long; UNKNOWN, INTERNAL, a dead service or internals in a text are faults."""
        source, faults, counts = random.Random(self.seed), [], dict[str, int]()
        alive = {name: self.suite.process(name).pid for name in SERVICES}
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            name = source.choice(list(SERVICES))
            method = source.choice(SERVICES[name].methods)
            payload = random_message(method.input_type, source).SerializeToString()
            if source.random() < 0.2:
                payload = broken(payload, source)
            answer = send(self.suite, name, method, payload, timeout_s=0.3)
            counts[answer.status] = counts.get(answer.status, 0) + 1
            if answer.status in (UNKNOWN, INTERNAL) or "reset" in answer.status or tells_internals(text_of(answer)):
                faults.append(f"{method.name} {payload.hex()[:400]} -> {answer.headers}")
        alive_still = all(psutil.pid_exists(pid) for pid in alive.values())
        for fault in faults[:10]:
            print(f"    {fault}", flush=True)
        seen = ", ".join(f"{status}: {count}" for status, count in sorted(counts.items()))
        injected = f"{sum(counts.values())} random requests, seed {self.seed}"
        return Row("G13", injected, seen, f"{len(faults)} faults", "0", not faults and alive_still)


def random_message(descriptor: Descriptor, source: random.Random, depth: int = 0) -> Message:
    """Build a message of a type with random fields."""
    built = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if source.random() < 0.7 and depth < 5:
            _fill(built, field, source, depth)
    return built


def _fill(built: Message, field: FieldDescriptor, source: random.Random, depth: int) -> None:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = field.message_type.fields
        for _ in range(source.choice((0, 1, 3))):
            name, into = random_value(key, source), getattr(built, field.name)
            if value.message_type is not None:
                into[name].CopyFrom(random_message(value.message_type, source, depth + 1))
            else:
                into[name] = random_value(value, source)
    elif field.message_type is not None:
        count = source.choice((0, 1, 3, 200)) if field.is_repeated else 1
        for _ in range(count if depth < 2 else min(count, 2)):
            made = random_message(field.message_type, source, depth + 1)
            getattr(built, field.name).append(made) if field.is_repeated else getattr(built, field.name).CopyFrom(made)
    elif field.is_repeated:
        getattr(built, field.name).extend(random_value(field, source) for _ in range(source.choice((0, 1, 3, 500))))
    else:
        setattr(built, field.name, random_value(field, source))


_INTEGERS = (0, 1, -1, 2, 7, 100, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 1_704_067_200, 4_102_444_801)
_FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e308, -1e308, 5e-324, float("inf"), float("-inf"), float("nan"), 100.0)
_STRINGS = (
    "",
    "a",
    "BINANCE",
    "BTCUSDT",
    "dual_ma",
    "sharpe",
    "create_time",
    "'; DROP TABLE backtests; --",
    "../../etc/passwd",
    "\0",
    "‮evil",
    "x" * 10_000,
    "01890a5d-ac96-774b-bcce-b302099a8057",
    "AAAAAAAAAAAAAAAA",
    "%s%n",
    "{}",
)


def random_value(field: FieldDescriptor, source: random.Random) -> object:
    """Return a value that a field can hold, odd ones first."""
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        text = source.choice(_STRINGS)
        return text.encode() if field.type == FieldDescriptor.TYPE_BYTES else text
    if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return source.choice(_FLOATS)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return source.random() < 0.5
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return source.choice((*(value.number for value in field.enum_type.values), 99, -1))
    bits = 32 if kind in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32) else 64
    signed = kind in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64)
    least, most = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return min(max(source.choice(_INTEGERS), least), most)


def broken(payload: bytes, source: random.Random) -> bytes:
    """Flip, cut or repeat some bytes."""
    if not payload:
        return bytes(source.randrange(256) for _ in range(8))
    at = source.randrange(len(payload))
    changed = payload[:at] + bytes([source.randrange(256)]) + payload[at + 1 :]
    return source.choice((changed, payload[:at], payload + payload[at:]))


def heavy(suite: Suite) -> Iterator[Row]:
    """Send what is well formed, within the size of a message, and dear to look at."""
    config = backtest_pb2.BacktestConfig(strategy="dual_ma")
    series = series_pb2.Series(venue="TEST", market_type=1, symbol="A", interval=1)
    many = backtest_pb2.BacktestConfig(strategy="dual_ma", series=[series] * 200_000)
    for index, one in enumerate(many.series):
        one.symbol = f"S{index}"
    nested = struct_pb2.Value(number_value=1)
    for _ in range(40):
        nested = struct_pb2.Value(list_value=struct_pb2.ListValue(values=[nested]))
    deep, wide = backtest_pb2.BacktestConfig(), backtest_pb2.BacktestConfig()
    deep.params.fields["a"].CopyFrom(nested)
    wide.params.fields["a"].list_value.values.extend([struct_pb2.Value(number_value=1)] * 300_000)
    long = backtest_pb2.BacktestConfig(strategy="x" * 3_900_000)
    for injected, hostile in {
        "200,000 series": many,
        "params 40 levels deep": deep,
        "300,000 numbers in one param": wide,
        "a strategy of 3.9 MB": long,
    }.items():
        config.CopyFrom(hostile)
        request = backtest_service_pb2.CreateBacktestRequest(config=config)
        yield _cheap(suite, injected, request.SerializeToString())


def _cheap(suite: Suite, injected: str, payload: bytes) -> Row:
    """Measure the CPU of a refusal, that of taking in so many bytes included."""
    process, times = suite.process("backtest"), 5
    method = SERVICES["backtest"].methods_by_name["CreateBacktest"]
    before = sum(process.cpu_times()[:2])
    answers = [send(suite, "backtest", method, payload) for _ in range(times)]
    each_ms = (sum(process.cpu_times()[:2]) - before) / times * 1000
    held = {answer.status for answer in answers} == {INVALID_ARGUMENT} and each_ms < CHEAP_MS
    size = f"{injected} ({len(payload) / MEGABYTE:.1f} MB)"
    return Row("G10", size, answers[0].status, f"{each_ms:.0f} ms of CPU", f"INVALID_ARGUMENT, < {CHEAP_MS:g} ms", held)
