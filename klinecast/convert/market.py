"""Series, intervals, instants and pages: protobuf <-> types."""

from __future__ import annotations

import uuid

from google.protobuf.timestamp_pb2 import Timestamp

from klinecast.api.market.v1 import interval_pb2, series_pb2
from klinecast.convert.violations import Violations
from klinecast.interval import Interval
from klinecast.series import SYMBOL_PATTERN, VENUE_PATTERN, SeriesKey
from klinecast.types import MarketType

MIN_TIME_MS = 0
MAX_TIME_MS = 4_102_444_800_000
"""2100-01-01; instants outside 1970..2100 are refused."""

INTERVAL_TO_PROTO = {
    interval: number
    for interval, (_, number) in zip(Interval, [item for item in interval_pb2.Interval.items() if item[1]], strict=True)
}
INTERVAL_FROM_PROTO = {number: interval for interval, number in INTERVAL_TO_PROTO.items()}
MARKET_TYPE_TO_PROTO = {one: series_pb2.MarketType.Value(f"MARKET_TYPE_{one.name}") for one in MarketType}
MARKET_TYPE_FROM_PROTO = {number: one for one, number in MARKET_TYPE_TO_PROTO.items()}


def series_to_proto(key: SeriesKey) -> series_pb2.Series:
    """Convert a series key."""
    return series_pb2.Series(
        venue=key.venue,
        market_type=MARKET_TYPE_TO_PROTO[key.market_type],
        symbol=key.symbol,
        interval=INTERVAL_TO_PROTO[key.interval],
    )


def series_from_proto(proto: series_pb2.Series, field: str, violations: Violations) -> SeriesKey | None:
    """Convert a series key, or note what is wrong with it below `field` and return None."""
    market_type = MARKET_TYPE_FROM_PROTO.get(proto.market_type)
    interval = INTERVAL_FROM_PROTO.get(proto.interval)
    ok = [
        violations.check(
            bool(VENUE_PATTERN.fullmatch(proto.venue)), f"{field}.venue", "must be 1..32 characters of A-Z 0-9 _ -"
        ),
        violations.check(
            bool(SYMBOL_PATTERN.fullmatch(proto.symbol)),
            f"{field}.symbol",
            "must be 1..64 characters of A-Z a-z 0-9 . _ : / -",
        ),
        violations.check(
            market_type is not None, f"{field}.market_type", "must be a market type, for example MARKET_TYPE_SPOT"
        ),
        violations.check(interval is not None, f"{field}.interval", "must be an interval, for example INTERVAL_1_HOUR"),
    ]
    if not all(ok) or market_type is None or interval is None:
        return None
    return SeriesKey(proto.venue, market_type, proto.symbol, interval)


def series_key_parts(proto: series_pb2.Series) -> dict[str, str]:
    """Return venue, market_type, symbol and interval as people write them."""
    return {
        "venue": proto.venue,
        "market_type": MARKET_TYPE_FROM_PROTO[proto.market_type].value,
        "symbol": proto.symbol,
        "interval": INTERVAL_FROM_PROTO[proto.interval].value,
    }


def timestamp_to_proto(time_ms: int) -> Timestamp:
    """Convert epoch milliseconds."""
    return Timestamp(seconds=time_ms // 1000, nanos=time_ms % 1000 * 1_000_000)


def timestamp_from_proto(proto: Timestamp) -> int:
    """Convert to epoch milliseconds, rounded up: a half-open range keeps its meaning."""
    return proto.seconds * 1000 + -(-proto.nanos // 1_000_000)


def time_range_from_proto(message: object, violations: Violations, *, prefix: str = "") -> tuple[int, int]:
    """Read start_time and end_time of a message as epoch milliseconds; both required, 1970..2100, end after start."""
    stamps = []
    for name in ("start_time", "end_time"):
        stamp: Timestamp = getattr(message, name)
        if violations.check(message.HasField(name), prefix + name, "is required"):  # type: ignore[attr-defined]
            violations.check(
                0 <= stamp.nanos < 1_000_000_000 and MIN_TIME_MS <= stamp.seconds * 1000 <= MAX_TIME_MS,
                prefix + name,
                "must be between 1970-01-01 and 2100-01-01",
            )
        stamps.append(timestamp_from_proto(stamp))
    if message.HasField("start_time") and message.HasField("end_time"):  # type: ignore[attr-defined]
        violations.check(stamps[0] < stamps[1], prefix + "end_time", "must be after start_time")
    return stamps[0], stamps[1]


def page_size_from_proto(message: object, violations: Violations, *, default: int, maximum: int = 1000) -> int:
    """Read page_size: default when absent, 1..maximum."""
    if not message.HasField("page_size"):  # type: ignore[attr-defined]
        return default
    size: int = message.page_size  # type: ignore[attr-defined]
    violations.check(1 <= size <= maximum, "page_size", f"must be 1..{maximum:,}")
    return size


def id_from_proto(value: str, field: str, violations: Violations) -> str:
    """Check that an id is a UUID; return it in its usual spelling."""
    try:
        return str(uuid.UUID(value))
    except ValueError:
        violations.add(field, "must be an id as the service gave it, a UUID")
        return value
