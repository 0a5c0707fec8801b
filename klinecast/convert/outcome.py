"""What a run produced as the messages that save it: a header, and columns of trades, fills and equity by field name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from klinecast import __version__
from klinecast.api.backtest.v1 import backtest_pb2
from klinecast.api.results.v1 import result_pb2
from klinecast.backtest_config import BacktestConfig
from klinecast.convert.backtest import config_to_proto
from klinecast.convert.market import INTERVAL_TO_PROTO, series_to_proto
from klinecast.interval import Interval
from klinecast.types import KlineColumns

Columns = dict[str, NDArray[np.float64] | NDArray[np.int64]]
_OPEN = -1


def header_to_proto(
    result_id: str,
    config: BacktestConfig,
    *,
    statistics: Mapping[str, float],
    numbers: Mapping[str, float | int | None],
    open_position: tuple[float, float, float] | None,
    manifest: result_pb2.Manifest,
) -> result_pb2.ResultHeader:
    """Build the header of a result; `numbers` carry its scalar fields by name, None leaves one absent."""
    header = result_pb2.ResultHeader(
        result_id=result_id,
        config=config_to_proto(config),
        statistics=dict(statistics),
        manifest=manifest,
        **{name: value for name, value in numbers.items() if value is not None},  # type: ignore[arg-type]
    )
    if open_position is not None:
        quantity, entry_price, profit = open_position
        header.open_position.CopyFrom(
            result_pb2.OpenPosition(quantity=quantity, entry_price=entry_price, profit=profit)
        )
    return header


def manifest_to_proto(
    config: BacktestConfig,
    klines: KlineColumns,
    *,
    revision: int,
    source_interval: Interval,
    gap_count: int,
    missing_count: int,
    gaps: Iterable[tuple[int, int, int]],
    strategy_version: str,
    code_hash: str,
    engine_version: str,
) -> result_pb2.Manifest:
    """Build the manifest; the klines are hashed here, as they were read."""
    series = result_pb2.SeriesManifest(
        series=series_to_proto(config.series),
        revision=revision,
        klines_sha256=hash_klines(klines),
        kline_count=len(klines),
        gap_count=gap_count,
        missing_count=missing_count,
        gaps=[
            result_pb2.GapCrossed(first_open_time_ms=first, last_open_time_ms=last, missing_count=count)
            for first, last, count in gaps
        ],
        source_interval=INTERVAL_TO_PROTO[source_interval],
    )
    return result_pb2.Manifest(
        strategy_version=strategy_version,
        code_hash=code_hash,
        engine_version=engine_version,
        klinecast_version=__version__,
        series=[series],
    )


def hash_klines(klines: KlineColumns) -> str:
    """Return the SHA-256 of the columns, little-endian, one after another."""
    digest = hashlib.sha256(klines.open_time_ms.astype("<i8", copy=False).data)
    for column in (klines.open, klines.high, klines.low, klines.close, klines.volume):
        digest.update(column.astype("<f8", copy=False).data)
    return digest.hexdigest()


def trades_to_columns(trades: np.ndarray[tuple[int], np.dtype[np.void]], open_time_ms: NDArray[np.int64]) -> Columns:
    """Spread trades over columns; reasons become the numbers of FillReason in the contract."""
    closed = trades["exit_index"] != _OPEN
    columns: Columns = {name: trades[name] for name in ("entry_index", "exit_index", "side")}
    columns |= {name: trades[name] for name in ("quantity", "entry_price", "exit_price", "profit", "fees", "funding")}
    columns["entry_time_ms"] = open_time_ms[trades["entry_index"]]
    columns["exit_time_ms"] = np.where(closed, open_time_ms[np.where(closed, trades["exit_index"], 0)], _OPEN)
    columns["exit_reason"] = np.where(closed, trades["exit_reason"] + 1, 0)
    return columns


def fills_to_columns(fills: np.ndarray[tuple[int], np.dtype[np.void]], open_time_ms: NDArray[np.int64]) -> Columns:
    """Spread fills over columns; reasons become the numbers of FillReason in the contract."""
    columns: Columns = {name: fills[name] for name in ("kline_index", "side", "quantity", "price", "fee")}
    return columns | {"open_time_ms": open_time_ms[fills["kline_index"]], "reason": fills["reason"] + 1}


def equity_to_columns(klines: KlineColumns, equity: NDArray[np.float64]) -> Columns:
    """Put equity beside the klines it is of."""
    return {"open_time_ms": klines.open_time_ms, "equity": equity, "close": klines.close}


def config_from_wire(data: bytes) -> backtest_pb2.BacktestConfig:
    """Read a config as it was stored."""
    return backtest_pb2.BacktestConfig.FromString(data)
