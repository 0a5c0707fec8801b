"""Cutting blocks into messages."""

import random

import numpy as np
import pytest

from services.data.stream import rebatch


@pytest.mark.parametrize("parts", range(12))
@pytest.mark.parametrize("size", [1, 2, 7, 20, 50])
async def test_messages_hold_every_kline_once_and_are_full_but_the_last(parts, size):
    lengths = [random.randrange(40) for _ in range(parts)]
    numbers = np.arange(sum(lengths))
    stretches = np.split(numbers, np.cumsum(lengths)[:-1]) if lengths else []

    async def blocks():
        for stretch in stretches:
            yield {"open_time_ms": stretch, "close": stretch * 2.0}

    gathered = [batch async for batch in rebatch(blocks(), size)]
    batches = [{name: np.concatenate([one[name] for one in batch]) for name in batch[0]} for batch in gathered]
    found = [number for batch in batches for number in batch["open_time_ms"]]
    assert found == list(numbers)
    assert all((batch["close"] == batch["open_time_ms"] * 2.0).all() for batch in batches)
    assert all(len(batch["open_time_ms"]) == size for batch in batches[:-1])
    assert all(0 < len(batch["open_time_ms"]) <= size for batch in batches)
