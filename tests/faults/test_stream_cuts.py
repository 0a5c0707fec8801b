"""Streams that are cut, by the network or with the server, go on: every kline once, none lost."""

from __future__ import annotations

import random

import numpy as np
import pytest

from klinecast.client import Client, SeriesKey
from tests.factories import HOUR_MS, START_MS, make_columns, make_series
from tests.faults.proxy import Proxy, proxy_to
from tests.suite import Suite

COUNT = 60_000
END_MS = START_MS + COUNT * HOUR_MS
NETWORK_CUTS, KILLS = 192, 8


def ingest_with_gaps(client: Client) -> tuple[SeriesKey, dict[str, np.ndarray]]:
    """Store a series, a twentieth of its klines missing."""
    series, columns = make_series(), make_columns(COUNT)
    kept = np.random.default_rng(3).random(COUNT) > 0.05
    stored = {name: values[kept] for name, values in columns.items()}
    client.ingest_klines(series, [stored])
    return series, stored


def read_through_cuts(client: Client, series: SeriesKey, stored: dict[str, np.ndarray], cut) -> None:
    """Stream a random range, `cut` being called at each batch; compare with what was stored."""
    start_ms, end_ms = sorted(random.sample(range(START_MS, END_MS), 2))
    within = (stored["open_time_ms"] >= start_ms) & (stored["open_time_ms"] < end_ms)
    if not within.any():
        return
    batches = []
    for batch in client.stream_klines(series, start_ms, end_ms, batch_size=random.choice((500, 2_000, 4_096))):
        batches.append(batch)
        cut()
    for name, values in stored.items():
        found = np.concatenate([batch.columns[name] for batch in batches])
        np.testing.assert_array_equal(found, values[within], err_msg=name)
    assert [one.klines_sent for one in batches] == list(np.cumsum([len(one) for one in batches]))
    assert {one.klines_total for one in batches} == {np.count_nonzero(within)}


def test_streams_cut_by_the_network_are_exact(suite: Suite) -> None:
    with suite.client() as direct:
        series, stored = ingest_with_gaps(direct)
    with proxy_to(suite.target("data")) as proxy, Client(data=proxy.address) as client:

        def cut() -> None:
            if random.random() < 0.5:
                proxy.cut_after(random.randrange(200_000))

        while proxy.cuts < NETWORK_CUTS:
            read_through_cuts(client, series, stored, cut)
            cut_while_loading(client, proxy, series, stored)


def cut_while_loading(client: Client, proxy: Proxy, series: SeriesKey, stored: dict[str, np.ndarray]) -> None:
    proxy.cut_after(random.randrange(2_000_000))
    klines = client.load_klines(series, START_MS, END_MS).klines
    np.testing.assert_array_equal(klines.open_time_ms, stored["open_time_ms"])
    np.testing.assert_array_equal(klines.volume, stored["volume"])


@pytest.mark.timeout(120)
def test_streams_cut_by_kill_9_of_the_server_are_exact(own_suite: Suite) -> None:
    with own_suite.client(timeout_s=60.0) as client:
        series, stored = ingest_with_gaps(client)
        kills = 0

        def kill() -> None:
            nonlocal kills
            if kills < KILLS and random.random() < 0.2:
                own_suite.kill("data")
                own_suite.start("data")
                kills += 1

        while kills < KILLS:
            read_through_cuts(client, series, stored, kill)
