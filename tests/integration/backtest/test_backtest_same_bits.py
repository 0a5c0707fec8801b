"""The same backtest gives the same bits on any number of workers, in any company."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from klinecast.client import Client
from klinecast.types import Account
from tests.integration.backtest.test_backtest_several import make_config, make_market
from tests.suite import run_suite


def test_results_are_bit_identical_on_one_worker_and_on_three(session_home, database_url):
    collected: dict[Account, list[object]] = {account: [] for account in Account}
    keys = None
    for workers in (1, 3):
        home = session_home / f"bits-{workers}"
        with run_suite(home, database_url, WORKERS=str(workers)) as suite, suite.client() as client:
            keys = keys or make_market(client)
            for account, found in collected.items():
                with ThreadPoolExecutor(6) as pool:
                    found += pool.map(bits, [client] * 6, [make_config(keys, account=account)] * 6)
    assert [len(found) for found in collected.values()] == [12, 12]
    assert [len(set(found)) for found in collected.values()] == [1, 1]


def bits(client: Client, config) -> tuple[object, ...]:
    event = list(client.run_backtest(config))[-1]
    assert event.state == "SUCCEEDED", event.error
    result = client.get_result(str(event.result_id))
    columns = [client.load_equity(result.result_id), client.load_trades(result.result_id)]
    return (
        tuple(sorted(result.statistics.items())),
        tuple(column.tobytes() for table in columns for _, column in sorted(table.items())),
    )
