"""Processes die; backtests do not."""

from concurrent.futures import ThreadPoolExecutor

import psycopg

from tests.factories import make_config
from tests.suite import Suite


def test_a_killed_service_finishes_all_its_backtests_once(own_suite: Suite, database_url: str) -> None:
    with own_suite.client() as client:
        config = make_config(client, strategy="slow", params={"seconds": 1.0})
        ids = [client.create_backtest(config).backtest_id for _ in range(10)]
        next(event for event in client.watch_backtest(ids[0]) if event.state == "RUNNING")
        own_suite.kill("backtest")
        own_suite.start("backtest")
        with ThreadPoolExecutor(10) as pool:
            stories = list(pool.map(lambda one: list(client.watch_backtest(one)), ids))
    assert [story[-1].state for story in stories] == ["SUCCEEDED"] * 10
    assert max(story[-1].attempt for story in stories) > 1
    for story in stories:
        assert [event.sequence for event in story] == list(range(1, len(story) + 1))
    with psycopg.connect(database_url) as connection:
        query = "SELECT count(*), count(DISTINCT result_id) FROM results.results"
        assert connection.execute(query).fetchone() == (10, 10)


def test_workers_die_with_their_service(own_suite: Suite) -> None:
    workers = own_suite.process("backtest").children(recursive=True)
    assert workers
    own_suite.kill("backtest")
    for worker in workers:
        worker.wait(2)
