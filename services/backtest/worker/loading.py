"""Reads the klines of a config, and the indicators its strategy asks for, through the SDK; warm-up included."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from klinecast.backtest_config import BacktestConfig
from klinecast.client import Indicator, IndicatorKey, LoadedIndicators, LoadedKlines
from klinecast.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound
from klinecast.series import SeriesKey
from klinecast.types import FundingColumns, MarketType
from services.backtest.jobs import Failure
from services.backtest.neighbours import Market
from services.backtest.reuse import Read
from services.backtest.run import Loaded, RunFailed

FUNDING_RATE, FUNDING_MARK_PRICE = "funding_rate", "funding_mark_price"
"""Stored indicator series that hold a perpetual's funding."""
_TRIES = 5
Reads: TypeAlias = "tuple[Read, ...] | None"


def load(market: Market, config: BacktestConfig, series: SeriesKey, indicators: Sequence[Indicator]) -> Loaded:
    """Read [start, end) of a series, the wanted number of klines before it or as many as there are, and its funding."""
    try:
        for _ in range(_TRIES):
            loaded = _load_klines(market, config, series)
            whole = _with_indicators(market, series, loaded, indicators) if indicators else loaded
            if whole is not None:
                return with_funding(market, series, whole)
    except (NotFound, FailedPrecondition, Aborted) as error:
        raise RunFailed(Failure(error.reason, str(error))) from None
    except InvalidArgument as error:
        message = f"strategy {config.strategy} asks for indicators that cannot be had: {error}"
        raise RunFailed(Failure("STRATEGY_FAILED", message[:500])) from None
    raise RunFailed(Failure("SERIES_CHANGED", f"{series} was rewritten again and again while it was read"))


def _load_klines(market: Market, config: BacktestConfig, series: SeriesKey) -> Loaded:
    reach = config.warmup_klines * series.interval.span_ms
    while True:
        start_ms = max(0, config.start_ms - reach)
        loaded = market.load_klines(series, start_ms, config.end_ms)
        first = int(np.searchsorted(loaded.klines.open_time_ms, config.start_ms))
        if first == len(loaded.klines):
            raise RunFailed(Failure("NO_KLINES_IN_RANGE", f"{series} holds no klines in the range"))
        if first >= config.warmup_klines or start_ms == 0:
            return _cut(loaded, max(0, first - config.warmup_klines), series, start_ms, config.end_ms)
        reach *= 4  # gaps before the start: look further back


def _cut(loaded: LoadedKlines, first: int, series: SeriesKey, start_ms: int, end_ms: int) -> Loaded:
    read = Read(series, start_ms, end_ms, loaded.source_interval, loaded.revision, len(loaded.klines))
    return Loaded(loaded.klines.slice(first), loaded.revision, loaded.source_interval, (read,))


def _with_indicators(
    market: Market, series: SeriesKey, loaded: Loaded, indicators: Sequence[Indicator]
) -> Loaded | None:
    """Add the indicators of the klines; None when these were rewritten since they were read."""
    times = loaded.klines.open_time_ms
    found = market.load_indicators(series, indicators, int(times[0]), int(times[-1]) + 1)
    if not np.array_equal(found.open_time_ms, times):
        return None
    klines = dataclasses.replace(loaded.klines, indicators=found.columns)
    return dataclasses.replace(
        loaded, klines=klines, reads=_with_stored(market, loaded.reads, found.indicator_revisions, since_ms=0)
    )


def _with_stored(
    market: Market,
    reads: Reads,
    revisions: Mapping[str, int],
    *,
    since_ms: int | None = None,
    absent: tuple[str, ...] = (),
) -> Reads:
    """Add stored indicators to what was read, as they stand if they still stand so; since_ms: and all klines since."""
    if reads is None:
        return None
    read = reads[0]
    start_ms = read.start_ms if since_ms is None else since_ms
    now = market.get_range(
        read.series, start_ms, read.end_ms, source_interval=read.source_interval, indicators=[*revisions, *absent]
    )
    if {name: one.revision for name, one in now.indicators.items()} != dict(revisions):
        return None
    counts = {name: (one.revision, one.value_count) for name, one in now.indicators.items()}
    return (*reads, dataclasses.replace(read, start_ms=start_ms, kline_count=None, indicators=counts, absent=absent))


def with_funding(market: Market, series: SeriesKey, loaded: Loaded) -> Loaded:
    """Add the stored funding of a perpetual: rates, and the mark prices they are taken at where those are stored."""
    if series.market_type is MarketType.SPOT:
        return loaded
    times = loaded.klines.open_time_ms
    start_ms, end_ms = int(times[0]), int(times[-1]) + series.interval.span_ms
    found = {name: _stored(market, series, name, start_ms, end_ms) for name in (FUNDING_RATE, FUNDING_MARK_PRICE)}
    revisions: dict[str, int] = {}
    for one in found.values():
        revisions |= {} if one is None else one.indicator_revisions
    absent = tuple(name for name in found if name not in revisions)
    reads = _with_stored(market, loaded.reads, revisions, absent=absent)
    return dataclasses.replace(loaded, funding=_funding(**found), reads=reads)


def _funding(
    funding_rate: LoadedIndicators | None, funding_mark_price: LoadedIndicators | None
) -> FundingColumns | None:
    if funding_rate is None:
        return None
    times = funding_rate.open_time_ms
    prices = np.full(len(times), np.nan)
    if funding_mark_price is not None:
        _, ours, theirs = np.intersect1d(times, funding_mark_price.open_time_ms, return_indices=True)
        prices[ours] = funding_mark_price.columns[FUNDING_MARK_PRICE][theirs]
    return FundingColumns(times, funding_rate.columns[FUNDING_RATE], prices)


def _stored(market: Market, series: SeriesKey, name: str, start_ms: int, end_ms: int) -> LoadedIndicators | None:
    key = IndicatorKey(series.venue, series.market_type, series.symbol, name)
    try:
        return market.load_indicators(key, [Indicator(name)], start_ms, end_ms)
    except (NotFound, FailedPrecondition):
        return None
