"""Klines and configs for tests."""

from __future__ import annotations

import uuid

import numpy as np

from klinecast.client import BacktestConfig, Client, SeriesKey
from klinecast.columns import Column
from klinecast.interval import Interval
from klinecast.types import MarketType

START_MS = 1_704_067_200_000
HOUR_MS = 3_600_000


def make_series(symbol: str | None = None) -> SeriesKey:
    """Return an hourly spot series of its own."""
    return SeriesKey("TEST", MarketType.SPOT, symbol or f"T{uuid.uuid4().hex[:10].upper()}", Interval.H1)


def make_columns(count: int, seed: int = 7) -> dict[str, Column]:
    """Return a random walk of hourly klines."""
    random = np.random.default_rng(seed)
    close = np.maximum(100.0 + np.cumsum(random.normal(0, 1, count)), 5.0)
    open_ = np.concatenate([[100.0], close[:-1]])
    return {
        "open_time_ms": START_MS + HOUR_MS * np.arange(count),
        "open": open_,
        "high": np.maximum(open_, close) + random.random(count),
        "low": np.maximum(np.minimum(open_, close) - random.random(count), 1.0),
        "close": close,
        "volume": random.random(count) * 100,
    }


def make_config(client: Client, *, klines: int = 500, strategy: str = "dual_ma", **options: object) -> BacktestConfig:
    """Ingest a series and return a config over all of it."""
    series = make_series()
    client.ingest_klines(series, [make_columns(klines)])
    defaults: dict[str, object] = {"allow_reuse": False}
    return BacktestConfig(
        strategy=strategy,
        series=series,
        start_ms=START_MS,
        end_ms=START_MS + HOUR_MS * klines,
        **(defaults | options),  # type: ignore[arg-type]
    )
