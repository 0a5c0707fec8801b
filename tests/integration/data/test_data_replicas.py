"""Two replicas on one database under writers and readers at once: every stream is one state of the series."""

import asyncio
import random
from contextlib import AsyncExitStack, asynccontextmanager

import grpc.aio
import numpy as np
import pytest

from klinecast.api.data.v1 import data_service_pb2_grpc
from klinecast.columns import read_columns
from services.data.app import MIGRATIONS, build_app
from services.data.settings import DataSettings
from services.runtime.config import DatabaseSettings
from services.runtime.server import running
from tests.integration.data.kline_driver import (
    HOUR_MS,
    START_MS,
    DataDriver,
    assert_equal,
    join,
    make_klines,
    pick,
)

COUNT = 40_000
CACHES = (0, 2_000_000)
READERS, WRITES = 6, 120


@asynccontextmanager
async def replica(database_url, cache_bytes):
    """Yield a client of a replica of the service."""
    settings = DataSettings(
        database=DatabaseSettings(url=database_url),
        listen="127.0.0.1:0",
        metrics_listen="127.0.0.1:0",
        cache_bytes=cache_bytes,
    )
    async with running("data", settings, build_app, migrations=MIGRATIONS) as server:
        await server.migrating
        async with grpc.aio.insecure_channel(server.target) as channel:
            yield DataDriver(data_service_pb2_grpc.DataServiceStub(channel))


class Model:
    """Every state the series was in, by revision; writes are made one at a time so that their order is known."""

    def __init__(self, columns):
        self.source = columns
        self.present = np.zeros(COUNT, dtype=bool)
        self.states = {}
        self.changed = {}
        self.revision = 0

    def keep(self, revision, first, last, rewrite):
        """Remember the state as it is now, and which klines were rewritten to get here."""
        if revision != self.revision:
            self.revision = revision
            self.states[revision] = {name: values[self.present] for name, values in self.source.items()}
            self.changed[revision] = (first, last) if rewrite else None

    def within(self, revision, start_ms, end_ms):
        """Return the klines of a range at a revision."""
        times = self.states[revision]["open_time_ms"]
        return pick(self.states[revision], (times >= start_ms) & (times < end_ms))

    def was_rewritten(self, since, start_ms, end_ms):
        """Tell whether klines in the blocks of a range were rewritten after a revision."""
        span = 8_192 * HOUR_MS
        for revision, part in self.changed.items():
            if revision > since and part is not None:
                first, last = (int(self.source["open_time_ms"][at]) // span for at in part)
                if first <= (end_ms - 1) // span and last >= start_ms // span:
                    return True
        return False


async def write(model, replicas):
    """Make one random change through a random replica."""
    last = int(np.flatnonzero(model.present)[-1]) if model.present.any() else -1
    what = random.choice(("append", "append", "append", "update", "insert", "delete"))
    data = random.choice(replicas)
    first = last + 1 + random.randrange(3) if what == "append" else random.randrange(max(1, last))
    stop = min(first + random.choice((1, 50, 900)), COUNT if what == "append" else last + 1)
    if stop <= first:
        return
    part = slice(first, stop)
    if what == "delete":
        done = await data.delete(
            int(model.source["open_time_ms"][first]), int(model.source["open_time_ms"][stop - 1]) + 1
        )
        model.present[part] = False
        model.keep(done.revision, first, stop - 1, rewrite=True)
        return
    model.source["volume"] = model.source["volume"].copy()
    model.source["volume"][part] = np.random.default_rng(random.randrange(2**32)).random(stop - first)
    done = await data.ingest(pick(model.source, part))
    model.present[part] = True
    model.keep(done.revision, first, stop - 1, rewrite=first <= last)


async def read(model, replicas, done, tally):
    """Stream random ranges until the writes are done; each is one state, or was rewritten meanwhile."""
    while not done.is_set():
        data = random.choice(replicas)
        start, stop = sorted(random.sample(range(COUNT), 2))
        start_ms, end_ms = START_MS + start * HOUR_MS, START_MS + stop * HOUR_MS
        before = model.revision
        messages = []
        try:
            stream = data.open_stream(start_ms, end_ms, batch_size=random.choice((300, 3_000, 30_000)))
            while (message := await stream.read()) is not grpc.aio.EOF:
                messages.append(message)
                if random.random() < 0.3:
                    await asyncio.sleep(random.random() * 0.02)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.ABORTED:
                tally["aborted"] += 1
                since = messages[0].revision if messages else before
                await asyncio.sleep(0.05)  # the writer may not have noted its change yet
                assert model.was_rewritten(since, start_ms, end_ms)
            elif error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
                raise
            continue
        while messages[0].revision not in model.states:  # noqa: ASYNC110 - the writer notes it in a moment
            await asyncio.sleep(0.001)
        found = join([read_columns(message.batch) for message in messages])
        assert_equal(found, model.within(messages[0].revision, start_ms, end_ms))
        assert messages[0].revision >= before
        assert messages[-1].klines_sent == messages[0].klines_total == len(found["close"])
        tally["whole"] += 1


async def test_every_stream_is_one_state_of_the_series(database_url, seed):
    async with AsyncExitStack() as stack:
        replicas = [await stack.enter_async_context(replica(database_url, size)) for size in CACHES]
        model = Model(make_klines(COUNT, seed=seed))
        model.present[:20_000] = True
        model.keep((await replicas[0].ingest(pick(model.source, model.present))).revision, 0, 0, rewrite=False)
        done, tally = asyncio.Event(), {"whole": 0, "aborted": 0}
        async with asyncio.TaskGroup() as group:
            for _ in range(READERS):
                group.create_task(read(model, replicas, done, tally))
            for _ in range(WRITES):
                await write(model, replicas)
                await asyncio.sleep(random.random() * 0.05)
            done.set()
        assert tally["whole"] > 50, tally
        assert tally["aborted"] > 3, tally
        await compare_totals(model, replicas[1])


async def compare_totals(model, data):
    """Compare what the service counts with the model."""
    state = model.states[model.revision]
    times, summary = state["open_time_ms"], await data.get()
    gaps = (await data.gaps(page_size=1000)).gaps
    steps = np.diff(times) // HOUR_MS - 1
    assert (summary.kline_count, summary.revision) == (len(times), model.revision)
    assert (summary.first_open_time_ms, summary.last_open_time_ms) == (times[0], times[-1])
    assert summary.gap_count == np.count_nonzero(steps)
    assert [gap.missing_count for gap in gaps] == list(steps[steps > 0][:1000])
    found, _ = await data.stream(0, START_MS + COUNT * HOUR_MS)
    assert_equal(found, state)


@pytest.mark.parametrize("clients", [4])
async def test_concurrent_ingests_of_one_series_lose_nothing(database_url, clients, seed):
    klines = make_klines(20_000, seed=seed)
    async with AsyncExitStack() as stack:
        replicas = [await stack.enter_async_context(replica(database_url, 0)) for _ in range(2)]

        async def ingest(at):
            part = pick(klines, slice(at * 3_000, at * 3_000 + 11_000))
            order = np.random.default_rng(seed + at).permutation(11_000) if at % 2 else np.arange(11_000)
            return await replicas[at % 2].ingest(pick(part, order), size=random.choice((700, 1_900)))

        done = await asyncio.gather(*map(ingest, range(clients)))
        assert sum(one.inserted for one in done) == 20_000
        assert sum(one.unchanged for one in done) == clients * 11_000 - 20_000
        assert sum(one.updated + one.rejected for one in done) == 0
        found, _ = await replicas[0].stream(0, START_MS + 20_000 * HOUR_MS)
        assert_equal(found, klines)
        summary = await replicas[1].get()
        assert (summary.kline_count, summary.gap_count) == (20_000, 0)
