"""A real year of BTCUSDT 1h through the whole suite equals a plain loop over the same file."""

import csv
import gzip
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from klinecast.client import BacktestConfig, SeriesKey
from klinecast.importing import read_klines
from klinecast.interval import Interval
from klinecast.types import MarketType
from tests.suite import Suite

START, END = 1_704_067_200_000, 1_735_689_600_000
BTC = SeriesKey("BINANCE", MarketType.SPOT, "BTCUSDT", Interval.H1)
FEE = 0.001


@pytest.fixture
def file(shared_data: Path) -> Path:
    return shared_data / "data" / "spot" / "1h" / "BTCUSDT-1h-2022-01_2026-04.csv.gz"


def recompute(file: Path) -> tuple[float, int]:
    """Trade the cross of the 10 and 30 means by hand: decide at a close, fill all-in at the next open, 0.1 % fee."""
    with gzip.open(file, "rt") as lines:
        rows = [row for row in csv.DictReader(lines) if START <= int(row["open_time"]) < END]
    opens, closes = [float(row["open"]) for row in rows], [float(row["close"]) for row in rows]
    targets: list[int | None] = [None] * 29
    for index in range(29, len(closes)):
        fast, slow = sum(closes[index - 9 : index + 1]) / 10, sum(closes[index - 29 : index + 1]) / 30
        targets.append(None if abs(fast - slow) <= 1e-12 * slow else int(fast > slow))
    cash, held, acted, trades = 10_000.0, 0.0, 0, 0
    for target, price in zip(targets[:-1], opens[1:], strict=True):
        if target is None or target == acted:
            continue
        acted = target
        if target:
            held, cash = cash / (price * (1 + FEE)), 0.0
        else:
            cash, held, trades = held * price * (1 - FEE), 0.0, trades + 1
    return cash + held * closes[-1], trades


def test_the_real_year_equals_an_independent_loop(suite: Suite, file: Path) -> None:
    with suite.client() as client:
        first = client.ingest_klines(BTC, (batch.columns for batch in read_klines(file)))
        again = client.ingest_klines(BTC, (batch.columns for batch in read_klines(file)))
        gaps = [(gap.first_open_time_ms, gap.missing_count) for gap in client.list_gaps(BTC)]
        config = BacktestConfig(
            strategy="dual_ma",
            series=BTC,
            start_ms=START,
            end_ms=END,
            params={"fast": 10, "slow": 30},
            allow_reuse=False,
        )
        event = list(client.run_backtest(config))[-1]
        result = client.get_result(str(event.result_id))
    assert (first.inserted, again.inserted, again.updated, again.unchanged) == (37919, 0, 0, 37919)
    assert gaps == [(1_679_662_800_000, 1)]
    equity, trades = recompute(file)
    assert result.klines == 8784
    assert result.final_equity == pytest.approx(equity, rel=1e-9)
    assert result.statistics["trade_count"] == trades


def test_any_way_to_cut_the_stream_gives_the_same_klines(suite: Suite, file: Path) -> None:
    with suite.client() as client:
        client.ingest_klines(BTC, (batch.columns for batch in read_klines(file)))
        whole = client.load_klines(BTC, START, END).klines
        for size in (1000, 4096, 32_768):
            batches = list(client.stream_klines(BTC, START, END, batch_size=size))
            np.testing.assert_array_equal(np.concatenate([one.columns["close"] for one in batches]), whole.close)
            assert all(len(one) <= size for one in batches)
            assert all(a.next_open_time_ms <= b.columns["open_time_ms"][0] for a, b in pairwise(batches))
