"""Finds a shorter backtest to go on from, checks that nothing it rests on was rewritten, and reads what is new."""

from __future__ import annotations

import dataclasses

import numpy as np

from klinecast.backtest_config import BacktestConfig
from klinecast.errors import KlinecastError
from klinecast.strategy import State, Window
from services.backtest.continuing import Continuation, Start
from services.backtest.neighbours import Market
from services.backtest.reuse import Read
from services.backtest.run import Loaded
from services.backtest.worker.loading import with_funding
from services.backtest.worker.store import Finished, WorkerStore


def resume(
    market: Market, store: WorkerStore, key: bytes, config: BacktestConfig, memory: Window | State
) -> tuple[Start, Loaded] | None:
    """Return the longest backtest that this one extends, and its new klines after those the strategy looks back at."""
    for finished in store.find_continuable(market.tenant, key, config.end_ms):
        try:
            found = _resume(market, finished, config, memory)
        except (KlinecastError, ValueError):  # gone, rewritten meanwhile, or of another version: run in full
            continue
        if found is not None:
            return found
    return None


def _resume(
    market: Market, finished: Finished, config: BacktestConfig, memory: Window | State
) -> tuple[Start, Loaded] | None:
    continuation = Continuation.from_bytes(finished.continuation)
    reads = [Read.from_json(one) for one in finished.reads]
    loaded = _load_new(market, config, continuation, memory)
    end_ms = continuation.last_open_ms + config.interval.span_ms
    for read in reads:
        if not read.is_unchanged(market.get_range(read.series, read.start_ms, end_ms, indicators=read.names)):
            return None
    results = market.client
    columns = [
        load(finished.result_id, tenant=market.tenant)
        for load in (results.load_equity, results.load_fills, results.load_trades)
    ]
    if len(columns[0]["equity"]) != continuation.engine.next_index:
        return None
    new = int(np.count_nonzero(loaded.klines.open_time_ms > continuation.last_open_ms))
    whole = dataclasses.replace(
        reads[0],
        end_ms=config.end_ms,
        revision=loaded.revision,
        kline_count=None if reads[0].kline_count is None else reads[0].kline_count + new,
    )
    loaded = with_funding(market, config.all_series[0], dataclasses.replace(loaded, reads=(whole,)))
    return Start(finished.result_id, continuation, *columns), loaded


def _load_new(market: Market, config: BacktestConfig, continuation: Continuation, memory: Window | State) -> Loaded:
    """Read the klines after the earlier backtest's, and those before them that the strategy looks back at."""
    series, last_ms = config.all_series[0], continuation.last_open_ms
    context = memory.klines - 1 if isinstance(memory, Window) else 0
    reach = context * series.interval.span_ms
    while True:
        start_ms = max(last_ms + 1 - reach, continuation.seen_from_ms) if context else last_ms + 1
        found = market.load_klines(series, start_ms, config.end_ms)
        before = int(np.searchsorted(found.klines.open_time_ms, last_ms, side="right"))
        if before == len(found.klines):
            raise ValueError("no kline has come since")
        if before >= context or start_ms == continuation.seen_from_ms:
            klines = found.klines.slice(max(0, before - context))
            return Loaded(klines, found.revision, found.source_interval, None)
        reach *= 4  # gaps: look further back
