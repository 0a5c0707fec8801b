"""Requests and answers of the data service: protobuf <-> types, with every bound of the contract checked here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from klinecast.api.data.v1 import data_service_pb2
from klinecast.api.market.v1 import interval_pb2, kline_pb2, series_pb2
from klinecast.columns import Column, read_column, read_columns
from klinecast.convert.market import (
    INTERVAL_FROM_PROTO,
    MAX_TIME_MS,
    MIN_TIME_MS,
    page_size_from_proto,
    series_from_proto,
    time_range_from_proto,
    timestamp_from_proto,
)
from klinecast.convert.violations import Violations
from klinecast.interval import Interval, divides
from klinecast.series import SYMBOL_PATTERN, VENUE_PATTERN, SeriesKey

MAX_BATCH_SIZE = 32_768
DEFAULT_BATCH_SIZE = 4_096
MAX_INDICATORS = 32
REQUIRED_COLUMNS = ("open", "high", "low", "close", "volume")
DEFAULT_COLUMNS = REQUIRED_COLUMNS

_COLUMN_NAMES = {
    number: name.removeprefix("KLINE_COLUMN_").lower() for name, number in kline_pb2.KlineColumn.items() if number
}
COLUMN_NAMES = tuple(_COLUMN_NAMES.values())
"""Every column besides open_time_ms, in the order of the contract."""


@dataclass(frozen=True, slots=True)
class KlineQuery:
    """A StreamKlinesRequest, checked and with its defaults filled in."""

    key: SeriesKey
    """Series."""
    start_ms: int
    """First instant, inclusive."""
    end_ms: int
    """Last instant, exclusive."""
    batch_size: int
    """Klines a message."""
    columns: tuple[str, ...]
    """Columns besides open_time_ms, in the order of the contract."""
    resume_from_ms: int
    """Instant to go on from; start_ms when the stream is new."""
    expected_revision: int | None
    """Revision of the stream that this one continues."""
    fail_on_gap: bool = False
    """Whether a gap in the range is an error."""
    source_interval: Interval | None = None
    """Stored interval to build the klines from; None leaves the choice to the service."""
    implied_open_times: bool = False
    """Whether open times that follow from the first one are left out."""


def query_from_proto(proto: data_service_pb2.StreamKlinesRequest) -> KlineQuery:
    """Convert a request; raise InvalidArgument naming every bad field."""
    found = Violations()
    key = series_from_proto(proto.series, "series", found)
    start_ms, end_ms = time_range_from_proto(proto, found)
    batch_size = proto.batch_size if proto.HasField("batch_size") else DEFAULT_BATCH_SIZE
    found.check(1 <= batch_size <= MAX_BATCH_SIZE, "batch_size", f"must be 1..{MAX_BATCH_SIZE:,}")
    resume_ms = proto.resume_from_ms if proto.HasField("resume_from_ms") else start_ms
    found.check(
        start_ms <= resume_ms <= max(start_ms, end_ms), "resume_from_ms", "must be within start_time and end_time"
    )
    known = data_service_pb2.GapPolicy.values()
    found.check(proto.gap_policy in known, "gap_policy", "must be a value of GapPolicy")
    found.check(proto.expected_revision >= 0, "expected_revision", "must be 0 or more")
    source = source_from_proto(proto.source_interval, key, found)
    columns = _columns_from_proto(proto, found)
    found.raise_if_any()
    assert key is not None
    return KlineQuery(
        key=key,
        start_ms=start_ms,
        end_ms=end_ms,
        batch_size=batch_size,
        columns=columns,
        resume_from_ms=resume_ms,
        expected_revision=proto.expected_revision if proto.HasField("expected_revision") else None,
        fail_on_gap=proto.gap_policy == data_service_pb2.GAP_POLICY_FAIL,
        source_interval=source,
        implied_open_times=proto.implied_open_times,
    )


def range_from_proto(proto: data_service_pb2.GetRangeRequest) -> tuple[KlineQuery, Sequence[str]]:
    """Convert a request to a query that will not be streamed, and the indicators to tell about besides."""
    found = Violations()
    key = series_from_proto(proto.series, "series", found)
    start_ms, end_ms = time_range_from_proto(proto, found)
    source = source_from_proto(proto.source_interval, key, found)
    found.check(len(proto.indicators) <= MAX_INDICATORS, "indicators", f"must be {MAX_INDICATORS} names or fewer")
    for at, name in enumerate(proto.indicators[:MAX_INDICATORS]):
        found.check_text(name, f"indicators[{at}]", most=64)
    found.raise_if_any()
    assert key is not None
    query = KlineQuery(
        key, start_ms, end_ms, DEFAULT_BATCH_SIZE, DEFAULT_COLUMNS, start_ms, None, source_interval=source
    )
    return query, list(proto.indicators)


def source_from_proto(
    number: interval_pb2.Interval.ValueType, key: SeriesKey | None, violations: Violations
) -> Interval | None:
    """Convert a source_interval, None when it is left out; note one that does not divide the series' interval."""
    if number == interval_pb2.INTERVAL_UNSPECIFIED:
        return None
    source = INTERVAL_FROM_PROTO.get(number)
    if not violations.check(
        source is not None, "source_interval", "must be an interval, for example INTERVAL_1_MINUTE"
    ):
        return None
    if source is not None and key is not None and source is not key.interval:
        violations.check(
            divides(source, key.interval), "source_interval", f"{source} klines do not make up {key.interval} klines"
        )
    return source


def list_request_from_proto(
    proto: data_service_pb2.ListSeriesRequest | data_service_pb2.ListIndicatorSeriesRequest, *, default_size: int
) -> tuple[str, str, int]:
    """Return venue, symbol (empty: all) and page size."""
    found = Violations()
    found.check(
        not proto.venue or bool(VENUE_PATTERN.fullmatch(proto.venue)), "venue", "is not a venue, for example BINANCE"
    )
    found.check(
        not proto.symbol or bool(SYMBOL_PATTERN.fullmatch(proto.symbol)),
        "symbol",
        "is not a symbol, for example BTCUSDT",
    )
    size = page_size_from_proto(proto, found, default=default_size)
    found.raise_if_any()
    return proto.venue, proto.symbol, size


def gaps_request_from_proto(
    proto: data_service_pb2.ListGapsRequest, *, default_size: int
) -> tuple[SeriesKey, int, int, int]:
    """Return the series, the range (open ends: 1970 and 2100) and the page size."""
    found = Violations()
    key = series_from_proto(proto.series, "series", found)
    start_ms, end_ms = open_range_from_proto(proto, found)
    size = page_size_from_proto(proto, found, default=default_size)
    found.raise_if_any()
    assert key is not None
    return key, start_ms, end_ms, size


def open_range_from_proto(
    proto: data_service_pb2.ListGapsRequest | data_service_pb2.CheckSeriesRequest, violations: Violations
) -> tuple[int, int]:
    """Return a range either end of which may be left out: 1970 and 2100 then."""
    times = {"start_time": MIN_TIME_MS, "end_time": MAX_TIME_MS}
    for name in times:
        if proto.HasField(name):  # type: ignore[arg-type]
            times[name] = timestamp_from_proto(getattr(proto, name))
            violations.check(
                MIN_TIME_MS <= times[name] <= MAX_TIME_MS, name, "must be between 1970-01-01 and 2100-01-01"
            )
    violations.check(times["start_time"] < times["end_time"], "end_time", "must be after start_time")
    return times["start_time"], times["end_time"]


def columns_to_proto(names: Iterable[str]) -> list[kline_pb2.KlineColumn.ValueType]:
    """Convert names of columns besides open_time_ms; ValueError names one that is none."""
    return [kline_pb2.KlineColumn.Value(f"KLINE_COLUMN_{name.upper()}") for name in names]


def klines_from_proto(batch: kline_pb2.KlineBatch, *, field: str = "batch") -> dict[str, Column]:
    """Read the columns of a batch to store; raise InvalidArgument when they are too long or of unequal length."""
    columns = {name: read_column(batch, name) for name in ("open_time_ms", *REQUIRED_COLUMNS)} | read_columns(batch)
    count = len(batch.open_time_ms)
    found = Violations()
    found.check(
        count <= MAX_BATCH_SIZE, f"{field}.open_time_ms", f"must hold at most {MAX_BATCH_SIZE:,} klines, not {count:,}"
    )
    for name in COLUMN_NAMES:
        length = len(columns.get(name, ()))
        ok = length == count or (length == 0 and name not in REQUIRED_COLUMNS)
        found.check(ok, f"{field}.{name}", f"must be as long as open_time_ms ({count:,}), not {length:,}")
    found.raise_if_any()
    return columns


def required_series(proto: series_pb2.Series, *, field: str = "series") -> SeriesKey:
    """Convert a series key; raise InvalidArgument naming what is wrong with it."""
    found = Violations()
    key = series_from_proto(proto, field, found)
    found.raise_if_any()
    assert key is not None
    return key


def delete_request_from_proto(proto: data_service_pb2.DeleteKlinesRequest) -> tuple[SeriesKey, int, int]:
    """Return the series and the range to delete."""
    found = Violations()
    key = series_from_proto(proto.series, "series", found)
    start_ms, end_ms = time_range_from_proto(proto, found)
    found.raise_if_any()
    assert key is not None
    return key, start_ms, end_ms


def _columns_from_proto(proto: data_service_pb2.StreamKlinesRequest, found: Violations) -> tuple[str, ...]:
    for place, number in enumerate(proto.columns):
        found.check(number in _COLUMN_NAMES, f"columns[{place}]", "must be a value of KlineColumn")
    asked = {_COLUMN_NAMES.get(number) for number in proto.columns}
    return tuple(name for name in COLUMN_NAMES if name in asked) if asked else DEFAULT_COLUMNS
