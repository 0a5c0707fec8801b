"""Reads the klines of a config, and the indicators its strategy asks for, through the SDK; warm-up included."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from klinecast.backtest_config import BacktestConfig
from klinecast.client import Client, Indicator, LoadedKlines
from klinecast.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound
from services.backtest.jobs import Failure
from services.backtest.runner import Loaded, RunFailed

_TRIES = 5


def load(client: Client, config: BacktestConfig, indicators: Sequence[Indicator]) -> Loaded:
    """Read [start, end) and the wanted number of klines before it, as many as there are."""
    try:
        for _ in range(_TRIES):
            loaded = _load_klines(client, config)
            if not indicators:
                return loaded
            if (whole := _with_indicators(client, config, loaded, indicators)) is not None:
                return whole
    except (NotFound, FailedPrecondition, Aborted) as error:
        raise RunFailed(Failure(error.reason, str(error))) from None
    except InvalidArgument as error:
        message = f"strategy {config.strategy} asks for indicators that cannot be had: {error}"
        raise RunFailed(Failure("STRATEGY_FAILED", message[:500])) from None
    raise RunFailed(Failure("SERIES_CHANGED", f"{config.series} was rewritten again and again while it was read"))


def _load_klines(client: Client, config: BacktestConfig) -> Loaded:
    reach = config.warmup_klines * config.series.interval.span_ms
    while True:
        start_ms = max(0, config.start_ms - reach)
        loaded = client.load_klines(config.series, start_ms, config.end_ms)
        first = int(np.searchsorted(loaded.klines.open_time_ms, config.start_ms))
        if first == len(loaded.klines):
            raise RunFailed(Failure("NO_KLINES_IN_RANGE", f"{config.series} holds no klines in the range"))
        if first >= config.warmup_klines or start_ms == 0:
            return _cut(loaded, max(0, first - config.warmup_klines))
        reach *= 4  # gaps before the start: look further back


def _cut(loaded: LoadedKlines, first: int) -> Loaded:
    return Loaded(loaded.klines.slice(first), loaded.revision, loaded.source_interval)


def _with_indicators(
    client: Client, config: BacktestConfig, loaded: Loaded, indicators: Sequence[Indicator]
) -> Loaded | None:
    """Add the indicators of the klines; None when these were rewritten since they were read."""
    times = loaded.klines.open_time_ms
    found = client.load_indicators(config.series, indicators, int(times[0]), int(times[-1]) + 1)
    if not np.array_equal(found.open_time_ms, times):
        return None
    return dataclasses.replace(loaded, klines=dataclasses.replace(loaded.klines, indicators=found.columns))
