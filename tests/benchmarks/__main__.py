"""make bench: from the call of the SDK to the terminal event of a year of 1h klines, with the share of each phase."""

from __future__ import annotations

import statistics

from klinecast.client import BacktestEvent, Client
from tests.benchmarks.bench import Row, durable_suite, median_ms, publish
from tests.factories import make_config

KLINES = 8_760
TIMES = 50


def main() -> None:
    """Measure and publish."""
    with durable_suite() as suite, suite.client() as client:
        publish("bench", measure(client))


def measure(client: Client) -> list[Row]:
    """Return the rows: warm, medians of 50."""
    config = make_config(client, klines=KLINES, params={"fast": 10, "slow": 30})
    ends: list[BacktestEvent] = []

    def run() -> None:
        ends.append(list(client.run_backtest(config))[-1])
        assert ends[-1].state == "SUCCEEDED"
        assert not ends[-1].reused

    for _ in range(10):
        run()
    ends.clear()
    total = median_ms(run, TIMES)
    unary = median_ms(lambda: client.get_backtest(ends[-1].backtest_id), TIMES)
    rows = [Row("submit_to_terminal_ms", total, "ms", "one unary call with one read", total / unary)]
    rows.append(Row("unary_call_ms", unary, "ms", "", None))
    for phase in ends[-1].timings_s:
        value = statistics.median(end.timings_s[phase] for end in ends) * 1000
        rows.append(Row(f"phase_{phase}_ms", value, "ms", "submit_to_terminal_ms", value / total))
    return rows


if __name__ == "__main__":
    main()
