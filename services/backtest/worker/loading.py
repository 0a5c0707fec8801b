"""Reads the klines of a config through the SDK, warm-up before the start included."""

from __future__ import annotations

import numpy as np

from klinecast.backtest_config import BacktestConfig
from klinecast.client import Client
from klinecast.errors import Aborted, FailedPrecondition, NotFound
from services.backtest.jobs import Failure
from services.backtest.runner import Loaded, RunFailed


def load(client: Client, config: BacktestConfig) -> Loaded:
    """Read [start, end) and the wanted number of klines before it, as many as there are."""
    reach = config.warmup_klines * config.series.interval.span_ms
    while True:
        start_ms = max(0, config.start_ms - reach)
        loaded = _load(client, config, start_ms)
        first = int(np.searchsorted(loaded.klines.open_time_ms, config.start_ms))
        if first == len(loaded.klines):
            raise RunFailed(Failure("NO_KLINES_IN_RANGE", f"{config.series} holds no klines in the range"))
        if first >= config.warmup_klines or start_ms == 0:
            return Loaded(loaded.klines.slice(max(0, first - config.warmup_klines)), loaded.revision)
        reach *= 4  # gaps before the start: look further back


def _load(client: Client, config: BacktestConfig, start_ms: int) -> Loaded:
    try:
        loaded = client.load_klines(config.series, start_ms, config.end_ms)
    except (NotFound, FailedPrecondition, Aborted) as error:
        raise RunFailed(Failure(error.reason, str(error))) from None
    return Loaded(loaded.klines, loaded.revision)
