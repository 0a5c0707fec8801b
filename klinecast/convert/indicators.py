"""Requests and answers of the indicator RPCs: protobuf <-> types, with every bound of the contract checked here.

Which indicators can be computed, and with which params, only the service knows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from klinecast.api.data.v1 import data_service_pb2 as pb
from klinecast.api.data.v1 import indicator_pb2
from klinecast.api.market.v1 import interval_pb2, kline_pb2, series_pb2
from klinecast.columns import Column, read_column
from klinecast.convert.data import (
    DEFAULT_BATCH_SIZE,
    MAX_BATCH_SIZE,
    MAX_INDICATORS,
    KlineQuery,
    columns_to_proto,
    source_from_proto,
)
from klinecast.convert.market import (
    MARKET_TYPE_FROM_PROTO,
    MARKET_TYPE_TO_PROTO,
    series_from_proto,
    time_range_from_proto,
)
from klinecast.convert.params import params_from_proto
from klinecast.convert.violations import Violations
from klinecast.indicators import COMPUTED_PATTERN, LABEL_PATTERN, PRICES, STORED_PATTERN, Indicator, IndicatorKey
from klinecast.series import SYMBOL_PATTERN, VENUE_PATTERN, SeriesKey

_PRICES = {kline_pb2.KLINE_COLUMN_UNSPECIFIED: "close"} | {
    kline_pb2.KlineColumn.Value(f"KLINE_COLUMN_{name.upper()}"): name for name in PRICES
}


@dataclass(frozen=True, slots=True)
class IndicatorQuery:
    """A StreamIndicatorsRequest, checked and with its defaults filled in."""

    klines: KlineQuery
    """Range, batching and resumption; of the series whose klines give the open times."""
    indicators: tuple[Indicator, ...]
    """What is asked for."""
    raw: bool
    """Whether the one stored indicator comes at open times of its own; the interval of klines means nothing then."""
    expected_revisions: Mapping[str, int]
    """Revisions of stored series of the stream that this one continues, by name."""


def indicator_query_from_proto(proto: pb.StreamIndicatorsRequest) -> IndicatorQuery:
    """Convert a request; raise InvalidArgument naming every bad field."""
    found = Violations()
    indicators = tuple(
        _indicator_from_proto(one, f"indicators[{at}]", found)
        for at, one in enumerate(proto.indicators[:MAX_INDICATORS])
    )
    found.check(1 <= len(proto.indicators) <= MAX_INDICATORS, "indicators", f"must hold 1..{MAX_INDICATORS}")
    for label, count in Counter(one.column for one in indicators).items():
        found.check(count == 1, "indicators", f"label {label!r} is used {count} times; give each a label of its own")
    raw = proto.series.interval == interval_pb2.INTERVAL_UNSPECIFIED and [one.is_stored for one in indicators] == [True]
    series = series_pb2.Series()
    series.CopyFrom(proto.series)
    if raw:
        series.interval = interval_pb2.INTERVAL_1_MINUTE
    key = series_from_proto(series, "series", found)
    start_ms, end_ms = time_range_from_proto(proto, found)
    batch_size = proto.batch_size if proto.HasField("batch_size") else DEFAULT_BATCH_SIZE
    found.check(1 <= batch_size <= MAX_BATCH_SIZE, "batch_size", f"must be 1..{MAX_BATCH_SIZE:,}")
    resume_ms = proto.resume_from_ms if proto.HasField("resume_from_ms") else start_ms
    within = start_ms <= resume_ms <= max(start_ms, end_ms)
    found.check(within, "resume_from_ms", "must be within start_time and end_time")
    source = source_from_proto(proto.source_interval, key, found)
    found.raise_if_any()
    assert key is not None
    expected = proto.expected_revision if proto.HasField("expected_revision") else None
    klines = KlineQuery(key, start_ms, end_ms, batch_size, (), resume_ms, expected, source_interval=source)
    return IndicatorQuery(klines, indicators, raw, dict(proto.expected_indicator_revisions))


def indicator_to_proto(one: Indicator) -> indicator_pb2.Indicator:
    """Convert an indicator to ask for; ValueError when its price is no column."""
    proto = indicator_pb2.Indicator(name=one.name, label=one.label or "", price=columns_to_proto([one.price])[0])
    proto.params.update(dict(one.params))
    return proto


def indicator_key_to_proto(key: IndicatorKey) -> indicator_pb2.IndicatorSeries:
    """Convert the identity of a stored series."""
    return indicator_pb2.IndicatorSeries(
        venue=key.venue, market_type=MARKET_TYPE_TO_PROTO[key.market_type], symbol=key.symbol, name=key.name
    )


def required_indicator_key(proto: indicator_pb2.IndicatorSeries) -> IndicatorKey:
    """Convert the identity of a stored series; raise InvalidArgument naming what is wrong with it."""
    found = Violations()
    found.check(bool(VENUE_PATTERN.fullmatch(proto.venue)), "series.venue", "must be 1..32 characters of A-Z 0-9 _ -")
    symbol_ok = bool(SYMBOL_PATTERN.fullmatch(proto.symbol))
    found.check(symbol_ok, "series.symbol", "must be 1..64 characters of A-Z a-z 0-9 . _ : / -")
    name_ok = bool(STORED_PATTERN.fullmatch(proto.name))
    found.check(name_ok, "series.name", "must be 1..64 characters of a-z 0-9 _, a letter first")
    market_ok = proto.market_type in MARKET_TYPE_FROM_PROTO
    found.check(market_ok, "series.market_type", "must be a market type, for example MARKET_TYPE_SPOT")
    found.raise_if_any()
    return indicator_key_from_proto(proto)


def indicator_key_from_proto(proto: indicator_pb2.IndicatorSeries) -> IndicatorKey:
    """Convert the identity of a stored series that is known to be right."""
    return IndicatorKey(proto.venue, MARKET_TYPE_FROM_PROTO[proto.market_type], proto.symbol, proto.name)


def values_from_proto(batch: indicator_pb2.IndicatorValues) -> dict[str, Column]:
    """Read values to store; raise InvalidArgument when they are too many or of unequal length."""
    count, values = len(batch.open_time_ms), len(batch.value)
    found = Violations()
    found.check(
        count <= MAX_BATCH_SIZE, "batch.open_time_ms", f"must hold at most {MAX_BATCH_SIZE:,} values, not {count:,}"
    )
    found.check(values == count, "batch.value", f"must be as long as open_time_ms ({count:,}), not {values:,}")
    found.raise_if_any()
    return {name: read_column(batch, name) for name in ("open_time_ms", "value")}


def market_key(series: SeriesKey, name: str) -> IndicatorKey:
    """Return the stored indicator series of a market."""
    return IndicatorKey(series.venue, series.market_type, series.symbol, name)


def series_without_interval(key: IndicatorKey) -> series_pb2.Series:
    """Return the series to ask for when a stored indicator is wanted at open times of its own."""
    return series_pb2.Series(venue=key.venue, market_type=MARKET_TYPE_TO_PROTO[key.market_type], symbol=key.symbol)


def _indicator_from_proto(proto: indicator_pb2.Indicator, field: str, found: Violations) -> Indicator:
    computed, stored = COMPUTED_PATTERN.fullmatch(proto.name), STORED_PATTERN.fullmatch(proto.name)
    problem = "must be TA-Lib's name in upper case, for example SMA, or that of a stored series in lower case"
    found.check(bool(computed or stored), f"{field}.name", problem)
    params = params_from_proto(proto.params, f"{field}.params", found)
    for name, value in params.items():
        if computed:
            found.check(isinstance(value, float), f"{field}.params.{name}", "must be a number")
        else:
            found.add(f"{field}.params.{name}", "is for computed indicators only")
    label_ok = not proto.label or bool(LABEL_PATTERN.fullmatch(proto.label))
    found.check(label_ok, f"{field}.label", "must be 1..64 characters of A-Z a-z 0-9 _ -")
    price = _PRICES.get(proto.price, "")
    found.check(price in PRICES, f"{field}.price", f"must be one of {' '.join(PRICES)}")
    return Indicator(proto.name, params, proto.label or None, price)
