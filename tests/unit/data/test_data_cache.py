"""The block cache keeps within its budget, least recently used out first."""

import numpy as np

from services.data.cache import BlockCache, BlockKey


def _key(block):
    return BlockKey(1, block, 0, 10, ("close",))


def _columns():
    return {"close": np.zeros(10)}


def test_a_block_is_found_by_all_of_its_key():
    cache = BlockCache(1_000)
    cache.put(_key(1), _columns())
    assert cache.get(_key(1)) is not None
    assert cache.get(BlockKey(1, 1, 1, 10, ("close",))) is None
    assert cache.get(BlockKey(1, 1, 0, 11, ("close",))) is None


def test_the_least_recently_used_goes_first():
    cache = BlockCache(160)
    cache.put(_key(1), _columns())
    cache.put(_key(2), _columns())
    cache.get(_key(1))
    cache.put(_key(3), _columns())
    assert [cache.get(_key(block)) is not None for block in (1, 2, 3)] == [True, False, True]
    assert cache.size_bytes == 160


def test_what_is_larger_than_the_budget_is_not_kept():
    for budget in (0, 79):
        cache = BlockCache(budget)
        cache.put(_key(1), _columns())
        assert (cache.get(_key(1)), cache.size_bytes) == (None, 0)


def test_putting_twice_counts_once():
    cache = BlockCache(1_000)
    cache.put(_key(1), _columns())
    cache.put(_key(1), _columns())
    assert cache.size_bytes == 80
