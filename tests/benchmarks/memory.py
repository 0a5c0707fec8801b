"""make bench-memory: resident memory of the services over 2,000 backtests, then of results over 5,000 results."""

from __future__ import annotations

import sys
import urllib.request

from klinecast.client import Client
from tests.benchmarks.bench import Row, durable_suite, judge, publish
from tests.factories import make_config
from tests.results import make_equity, make_trades, save
from tests.suite import ORDER, Suite

TOTAL, EVERY, SETTLED = 2_000, 250, 500
RESULTS, RESULTS_EVERY, RESULTS_SETTLED = 5_000, 500, 1_000
CACHE_BYTES = 4_000_000


def main() -> int:
    """Measure, publish and judge; ratios of memory are the end over what it was when it had settled."""
    rows = over_backtests()
    with durable_suite(RESULT_CACHE_BYTES=str(CACHE_BYTES)) as suite, suite.client() as client:
        rows += over_results(suite, client)
    publish("bench-memory", rows)
    return judge(rows, {"rss_5000_results_mb": 1.05, "cache_bytes": 1.0})


def over_backtests() -> list[Row]:
    """Run backtests of 1,000 klines one after another."""
    series: dict[int, dict[str, float]] = {}
    with durable_suite() as suite, suite.client() as client:
        config = make_config(client, klines=1_000, params={"fast": 10, "slow": 30})
        for done in range(1, TOTAL + 1):
            event = list(client.run_backtest(config))[-1]
            assert event.state == "SUCCEEDED"
            assert not event.reused
            if done % EVERY == 0:
                series[done] = resident_mb(suite)
                print(
                    f"{done:>6} backtests: " + "  ".join(f"{k} {v:.1f} MB" for k, v in series[done].items()), flush=True
                )
    settled, last = series[SETTLED], series[TOTAL]
    return [
        Row(f"rss_{name}_mb", last[name], "MB", f"after {SETTLED} backtests", last[name] / settled[name])
        for name in (*ORDER, "workers")
    ]


def over_results(suite: Suite, client: Client) -> list[Row]:
    """Save and read results of 5,000 klines that expire after two seconds."""
    equity, trades, sizes, cached = make_equity(5_000), make_trades(500), {}, 0.0
    for done in range(1, RESULTS + 1):
        result = save(client, equity=equity, trades=trades, ttl_s=2)
        client.load_equity(result.result_id)
        if done % RESULTS_EVERY == 0:
            sizes[done], cached = resident_mb(suite)["results"], max(cached, cache_bytes(suite))
            print(f"{done:>6} results: {sizes[done]:.1f} MB, {cached / 1e6:.2f} MB cached at most", flush=True)
    settled, last = sizes[RESULTS_SETTLED], sizes[RESULTS]
    return [
        Row("rss_5000_results_mb", last, "MB", f"after {RESULTS_SETTLED} results, {settled:.1f} MB", last / settled),
        Row("cache_bytes", cached, "B", f"its budget, {CACHE_BYTES} B", cached / CACHE_BYTES),
    ]


def cache_bytes(suite: Suite) -> float:
    """Return the bytes of chunks that the results service says it holds."""
    with urllib.request.urlopen(f"http://{suite.metrics('results')}/metrics") as page:
        lines = page.read().decode().splitlines()
    [value] = [float(line.split()[1]) for line in lines if line.startswith("klinecast_results_cache_bytes ")]
    return value


def resident_mb(suite: Suite) -> dict[str, float]:
    """Return the resident memory of each service, and of all workers together."""
    sizes = {name: suite.process(name).memory_info().rss / 1e6 for name in ORDER}
    workers = suite.process("backtest").children(recursive=True)
    return sizes | {"workers": sum(worker.memory_info().rss for worker in workers) / 1e6}


if __name__ == "__main__":
    sys.exit(main())
