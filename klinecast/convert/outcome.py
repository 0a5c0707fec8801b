"""What a run produced as the messages that save it: a header, and columns of trades, fills and equity by field name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from klinecast import __version__
from klinecast.api.backtest.v1 import backtest_pb2
from klinecast.api.results.v1 import result_pb2
from klinecast.backtest_config import BacktestConfig
from klinecast.columns import Column
from klinecast.convert.backtest import config_to_proto
from klinecast.convert.market import INTERVAL_TO_PROTO, series_to_proto
from klinecast.interval import Interval
from klinecast.series import SeriesKey
from klinecast.types import FILL_DTYPE, TRADE_DTYPE, KlineColumns

Columns = dict[str, NDArray[np.float64] | NDArray[np.int64]]
Rows = np.ndarray[tuple[int], np.dtype[np.void]]
_OPEN = -1


def header_to_proto(
    result_id: str,
    config: BacktestConfig,
    *,
    statistics: Mapping[str, float],
    numbers: Mapping[str, float | int | None],
    open_position: tuple[float, float, float] | None,
    manifest: result_pb2.Manifest,
    series_results: Iterable[result_pb2.SeriesResult] = (),
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
        header.open_position.CopyFrom(_position_to_proto(open_position))
    header.series_results.extend(series_results)
    return header


def series_result_to_proto(
    series: SeriesKey,
    *,
    statistics: Mapping[str, float],
    numbers: Mapping[str, float | int | None],
    open_position: tuple[float, float, float] | None,
) -> result_pb2.SeriesResult:
    """Build what one of several series came to; `numbers` as for the header."""
    proto = result_pb2.SeriesResult(
        series=series_to_proto(series),
        statistics=dict(statistics),
        **{name: value for name, value in numbers.items() if value is not None},  # type: ignore[arg-type]
    )
    if open_position is not None:
        proto.open_position.CopyFrom(_position_to_proto(open_position))
    return proto


def _position_to_proto(position: tuple[float, float, float]) -> result_pb2.OpenPosition:
    quantity, entry_price, profit = position
    return result_pb2.OpenPosition(quantity=quantity, entry_price=entry_price, profit=profit)


def series_manifest_to_proto(
    series: SeriesKey,
    klines: KlineColumns,
    *,
    revision: int,
    source_interval: Interval,
    gap_count: int,
    missing_count: int,
    gaps: Iterable[tuple[int, int, int]],
) -> result_pb2.SeriesManifest:
    """Build the manifest of a series; the klines are hashed here, as they were read."""
    return result_pb2.SeriesManifest(
        series=series_to_proto(series),
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


def manifest_to_proto(
    series: Iterable[result_pb2.SeriesManifest],
    *,
    strategy_version: str,
    code_hash: str,
    engine_version: str,
    continued_from: str,
) -> result_pb2.Manifest:
    """Build the manifest."""
    return result_pb2.Manifest(
        strategy_version=strategy_version,
        code_hash=code_hash,
        engine_version=engine_version,
        klinecast_version=__version__,
        series=series,
        continued_from=continued_from,
    )


def hash_klines(klines: KlineColumns) -> str:
    """Return the SHA-256 of the columns, little-endian, one after another."""
    digest = hashlib.sha256(klines.open_time_ms.astype("<i8", copy=False).data)
    for column in (klines.open, klines.high, klines.low, klines.close, klines.volume):
        digest.update(column.astype("<f8", copy=False).data)
    return digest.hexdigest()


def trades_to_columns(trades: Sequence[Rows], open_time_ms: Sequence[NDArray[np.int64]]) -> Columns:
    """Spread the trades of each series over columns; reasons have the same numbers in the contract."""
    return _joined(map(_trades_to_columns, trades, open_time_ms))


def fills_to_columns(fills: Sequence[Rows], open_time_ms: Sequence[NDArray[np.int64]]) -> Columns:
    """Spread the fills of each series over columns; reasons have the same numbers in the contract."""
    return _joined(map(_fills_to_columns, fills, open_time_ms))


def _joined(parts: Iterable[Columns]) -> Columns:
    numbered = [part | {"series": np.full(len(next(iter(part.values()))), number)} for number, part in enumerate(parts)]
    return {name: np.concatenate([part[name] for part in numbered]) for name in numbered[0]}


def _trades_to_columns(trades: Rows, open_time_ms: NDArray[np.int64]) -> Columns:
    closed = trades["exit_index"] != _OPEN
    columns: Columns = {name: trades[name] for name in ("entry_index", "exit_index", "side")}
    columns |= {name: trades[name] for name in ("quantity", "entry_price", "exit_price", "profit", "fees", "funding")}
    columns["entry_time_ms"] = open_time_ms[trades["entry_index"]]
    columns["exit_time_ms"] = np.where(closed, open_time_ms[np.where(closed, trades["exit_index"], 0)], _OPEN)
    columns["exit_reason"] = np.where(closed, trades["exit_reason"], 0)
    return columns


def _fills_to_columns(fills: Rows, open_time_ms: NDArray[np.int64]) -> Columns:
    columns: Columns = {name: fills[name] for name in ("kline_index", "side", "quantity", "price", "fee")}
    return columns | {"open_time_ms": open_time_ms[fills["kline_index"]], "reason": fills["reason"]}


def trades_from_columns(columns: Mapping[str, Column]) -> Rows:
    """Gather the trades of one series as the engine wrote them."""
    rows = np.zeros(len(columns["profit"]), TRADE_DTYPE)
    for name in TRADE_DTYPE.names or ():
        rows[name] = columns[name]
    return rows


def fills_from_columns(columns: Mapping[str, Column]) -> Rows:
    """Gather the fills of one series as the engine wrote them."""
    rows = np.zeros(len(columns["price"]), FILL_DTYPE)
    for name in FILL_DTYPE.names or ():
        rows[name] = columns[name]
    return rows


def config_from_wire(data: bytes) -> backtest_pb2.BacktestConfig:
    """Read a config as it was stored."""
    return backtest_pb2.BacktestConfig.FromString(data)
