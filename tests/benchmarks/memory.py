"""make bench-memory: resident memory of the three services over 2,000 backtests of 1,000 klines, one after another."""

from __future__ import annotations

from tests.benchmarks.bench import Row, durable_suite, publish
from tests.factories import make_config
from tests.suite import ORDER, Suite

TOTAL = 2_000
EVERY = 250
SETTLED = 500


def main() -> None:
    """Measure and publish; the ratio is the end over what it was after the first 500."""
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
    rows = [
        Row(f"rss_{name}_mb", last[name], "MB", f"after {SETTLED} backtests", last[name] / settled[name])
        for name in (*ORDER, "workers")
    ]
    publish("bench-memory", rows)


def resident_mb(suite: Suite) -> dict[str, float]:
    """Return the resident memory of each service, and of all workers together."""
    sizes = {name: suite.process(name).memory_info().rss / 1e6 for name in ORDER}
    workers = suite.process("backtest").children(recursive=True)
    return sizes | {"workers": sum(worker.memory_info().rss for worker in workers) / 1e6}


if __name__ == "__main__":
    main()
