"""The cache holds payloads within its budget, reads each once for all who ask, and forgets what nobody reads."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest

from services.results.cache import ENTRY_BYTES, PayloadCache
from services.results.saving import Chunk


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def chunk(row: int = 0, size: int = 100) -> Chunk:
    return Chunk("equity", row, 10, bytes(size))


def test_f9_ten_thousand_keys_stay_within_the_budget() -> None:
    cache = PayloadCache(5_000, 60.0)
    for number in range(10_000):
        cache.put(f"save-{number}", chunk(size=1 + number % 997))
        assert cache.size_bytes <= 5_000
    assert cache.get("save-9999", "equity", 3) is not None
    assert cache.get("save-0", "equity", 3) is None


def test_what_is_larger_than_the_budget_is_not_kept() -> None:
    cache = PayloadCache(99, 60.0)
    cache.put("save", chunk(size=100))
    assert cache.size_bytes == 0
    assert cache.get("save", "equity", 0) is None


def test_f9_many_small_chunks_take_no_more_memory_than_the_budget() -> None:
    budget = 4 * 1024 * 1024
    tracemalloc.start()
    try:
        cache = PayloadCache(budget, 60.0)
        for number in range(20_000):
            cache.put(f"0197f3a2-5c1e-7d40-9b8e-{number:012}", chunk(size=96))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert cache.size_bytes > budget / 2
    assert taken < budget


def test_the_least_recently_read_leaves_first() -> None:
    cache = PayloadCache(3 * (100 + ENTRY_BYTES), 60.0)
    for name in "abc":
        cache.put(name, chunk())
    cache.get("a", "equity", 0)
    cache.put("d", chunk())
    assert [name for name in "abcd" if cache.get(name, "equity", 0)] == ["a", "c", "d"]


def test_what_nobody_reads_is_forgotten() -> None:
    clock = Clock()
    cache = PayloadCache(1_000, 60.0, clock=clock)
    cache.put("a", chunk())
    clock.now = 59.0
    assert cache.get("a", "equity", 9) is not None
    clock.now = 118.0
    assert cache.get("a", "equity", 9) is not None
    clock.now = 178.1
    assert cache.get("a", "equity", 9) is None
    assert cache.size_bytes == 0


async def test_one_read_serves_all_who_ask_meanwhile() -> None:
    cache, reads, go = PayloadCache(1_000, 60.0), 0, asyncio.Event()

    async def read(save_id: str, kind: str, row: int) -> Chunk:
        nonlocal reads
        reads += 1
        await go.wait()
        return chunk()

    asking = [asyncio.ensure_future(cache.load("a", "equity", 0, read)) for _ in range(50)]
    await asyncio.sleep(0)
    asking[0].cancel()  # who gives up takes nothing from the others
    go.set()
    found = await asyncio.gather(*asking[1:])
    assert (reads, len(set(map(id, found)))) == (1, 1)
    assert await cache.load("a", "equity", 5, read) is found[0]
    assert reads == 1


async def test_a_read_that_fails_fails_for_all_and_is_tried_again() -> None:
    cache, fails = PayloadCache(1_000, 60.0), True

    async def read(save_id: str, kind: str, row: int) -> Chunk:
        await asyncio.sleep(0)
        if fails:
            raise ConnectionError("away")
        return chunk()

    outcomes = await asyncio.gather(*(cache.load("a", "equity", 0, read) for _ in range(3)), return_exceptions=True)
    assert [type(one) for one in outcomes] == [ConnectionError] * 3
    fails = False
    assert await cache.load("a", "equity", 0, read) is not None


@pytest.mark.parametrize("row", [10, 11])
async def test_a_chunk_answers_for_its_own_rows_only(row: int) -> None:
    cache = PayloadCache(1_000, 60.0)
    cache.put("a", chunk(row=0))
    assert cache.get("a", "equity", row) is None
    assert cache.get("a", "trades", 0) is None
