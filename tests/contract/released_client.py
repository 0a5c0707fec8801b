"""A caller of the last release: nothing but generated code. Takes the three targets, prints what it found as JSON."""

from __future__ import annotations

import json
import sys

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

import klinecast
from klinecast.api.backtest.v1 import backtest_pb2, backtest_service_pb2, backtest_service_pb2_grpc
from klinecast.api.data.v1 import data_service_pb2, data_service_pb2_grpc
from klinecast.api.market.v1 import interval_pb2, kline_pb2, series_pb2
from klinecast.api.results.v1 import results_service_pb2, results_service_pb2_grpc

COUNT, HOUR_MS, START_MS = 500, 3_600_000, 1_704_067_200_000
SERIES = series_pb2.Series(
    venue="RELEASED", market_type=series_pb2.MARKET_TYPE_SPOT, symbol="OLDCLIENT", interval=interval_pb2.INTERVAL_1_HOUR
)


def main(data: str, backtest: str, results: str) -> None:
    """Ingest, stream, run and watch a backtest, read and list its result."""
    backtests = backtest_service_pb2_grpc.BacktestServiceStub(grpc.insecure_channel(backtest))
    found = ingest(data_service_pb2_grpc.DataServiceStub(grpc.insecure_channel(data)))
    found |= run(backtests)
    found |= watch_and_list(backtests) | refused(backtests)
    found |= read(results_service_pb2_grpc.ResultsServiceStub(grpc.insecure_channel(results)), str(found["result_id"]))
    print(json.dumps(found | {"package": klinecast.__file__}))


def ingest(stub: data_service_pb2_grpc.DataServiceStub) -> dict[str, object]:
    """Store a zigzag and read it back."""
    closes = [100.0 + 20.0 * abs((index % 40) - 20) / 20 for index in range(COUNT)]
    batch = kline_pb2.KlineBatch(
        open_time_ms=[START_MS + HOUR_MS * index for index in range(COUNT)],
        open=closes,
        high=closes,
        low=closes,
        close=closes,
        volume=[1.0] * COUNT,
    )
    requests = [data_service_pb2.IngestKlinesRequest(series=SERIES, batch=batch)]
    stub.IngestKlines(iter(requests), timeout=30)
    wanted = data_service_pb2.StreamKlinesRequest(
        series=SERIES, start_time=at(START_MS), end_time=at(START_MS + COUNT * HOUR_MS), batch_size=100
    )
    batches = [response.batch for response in stub.StreamKlines(wanted, timeout=30)]
    summary = stub.GetSeries(data_service_pb2.GetSeriesRequest(series=SERIES), timeout=30).series
    return {
        "klines": sum(len(one.open_time_ms) for one in batches),
        "same": [close for one in batches for close in one.close] == closes,
        "kline_count": summary.kline_count,
    }


def run(stub: backtest_service_pb2_grpc.BacktestServiceStub) -> dict[str, object]:
    """Run a backtest to its end."""
    config = backtest_pb2.BacktestConfig(
        strategy="dual_ma",
        params={"fast": 5, "slow": 20},
        series=[SERIES],
        start_time=at(START_MS),
        end_time=at(START_MS + COUNT * HOUR_MS),
        reuse=backtest_pb2.REUSE_NEVER,
    )
    request = backtest_service_pb2.RunBacktestRequest(request_id="released", config=config)
    events = [response.event for response in stub.RunBacktest(request, timeout=60)]
    return {
        "state": backtest_pb2.BacktestState.Name(events[-1].state),
        "backtest_id": events[-1].backtest_id,
        "result_id": events[-1].result_id,
    }


def watch_and_list(stub: backtest_service_pb2_grpc.BacktestServiceStub) -> dict[str, object]:
    """Hear the story of the newest backtest from its start."""
    page = stub.ListBacktests(backtest_service_pb2.ListBacktestsRequest(page_size=1), timeout=30)
    request = backtest_service_pb2.WatchBacktestRequest(backtest_id=page.backtests[0].backtest_id)
    events = [response.event.sequence for response in stub.WatchBacktest(request, timeout=30)]
    strategies = stub.ListStrategies(backtest_service_pb2.ListStrategiesRequest(), timeout=30).strategies
    return {
        "contiguous": events == list(range(1, len(events) + 1)),
        "strategies": [strategy.name for strategy in strategies],
    }


def refused(stub: backtest_service_pb2_grpc.BacktestServiceStub) -> dict[str, object]:
    """Ask for what cannot be had."""
    config = backtest_pb2.BacktestConfig(strategy="no such strategy")
    try:
        stub.CreateBacktest(backtest_service_pb2.CreateBacktestRequest(config=config), timeout=30)
    except grpc.RpcError as error:
        return {"refused": error.code().name}
    return {"refused": None}


def read(stub: results_service_pb2_grpc.ResultsServiceStub, result_id: str) -> dict[str, object]:
    """Read a result and find it in the list."""
    result = stub.GetResult(results_service_pb2.GetResultRequest(result_id=result_id), timeout=30).result
    listed = stub.ListResults(results_service_pb2.ListResultsRequest(symbol=SERIES.symbol), timeout=30).results
    equity = stub.StreamEquity(results_service_pb2.StreamEquityRequest(result_id=result_id), timeout=30)
    trades = stub.StreamTrades(results_service_pb2.StreamTradesRequest(result_id=result_id), timeout=30)
    return {
        "listed": result_id in [one.header.result_id for one in listed],
        "trade_count": result.header.statistics["trade_count"],
        "equity": sum(len(response.equity.equity) for response in equity),
        "trades": sum(len(response.trades.entry_price) for response in trades),
    }


def at(milliseconds: int) -> Timestamp:
    """Convert."""
    timestamp = Timestamp()
    timestamp.FromMilliseconds(milliseconds)
    return timestamp


if __name__ == "__main__":
    main(*sys.argv[1:])
