"""Computed indicators: TA-Lib's published numbers, and the same values whatever the chunks."""

import json

import numpy as np
import pytest

from klinecast.errors import InvalidArgument
from klinecast.indicators import Indicator
from services.data.indicators import compute
from services.data.indicators.catalogue import NAMES, SUMS, prepare
from services.data.indicators.compute import Computer, chunks, history_of
from tests.integration.data.kline_driver import make_klines, pick

_MA_TYPES = {"EMA": 1}


def compute_one(name, params, series):
    values = np.asarray(series, dtype=float)
    columns = dict.fromkeys(("open_time_ms", "open", "high", "low", "close", "volume"), values)
    params = {key: _MA_TYPES.get(value, value) for key, value in params.items() if key != "compatibility"}
    (computation,) = prepare([Indicator(name, params)])
    return computation.compute(columns)


def test_the_published_vectors(shared_data):
    document = json.loads((shared_data / "oracles" / "talib_python_tests.json").read_text())
    classic = [one for one in document["vectors"] if "metastock" not in one["params"].get("compatibility", "")]
    assert len(classic) >= 3
    for one in classic:
        found = compute_one(one["function"], one["params"], one["input"])[0]
        expected = [np.nan if value is None else value for value in one["expected"]]
        np.testing.assert_allclose(found, expected, rtol=one["tolerance"], err_msg=one["test"])
    lines = {None: 0, "upper": 0, "middle": 1, "lower": 2}
    for one in document["points"]:
        series = document["series"] if one["input"] == "series" else one["input"]
        found = compute_one(one["function"], one["params"], series)[lines[one["line"]]]
        for offset, value in one["expected_at_first_valid_plus"].items():
            assert found[one["first_valid_index"] + int(offset)] == pytest.approx(value, abs=one["tolerance"])


@pytest.mark.parametrize("name", sorted(NAMES))
async def test_chunks_change_no_value(name, monkeypatch, seed):
    monkeypatch.setattr(compute, "_FIRST_CHUNK", 1_000)
    monkeypatch.setattr(compute, "_CHUNK", 3_000)
    klines = make_klines(40_000, seed=seed)
    (computation,) = prepare([Indicator(name)])
    whole = dict(zip(computation.columns, computation.compute(klines), strict=True))

    async def blocks():
        for start in range(0, 40_000, 700):
            yield pick(klines, slice(start, start + 700))

    computer, at = Computer([computation]), 0
    async for chunk, done in chunks(blocks(), min(history_of([computation]), 12_000)):
        found, stop = computer.compute(chunk, done), at + len(chunk["close"]) - done
        for column, values in found.items():
            expected = whole[column][at:stop]
            scale = max(np.nanmax(np.abs(whole[column]), initial=0), 1e-12)
            np.testing.assert_allclose(values[done:], expected, rtol=1e-7, atol=1e-9 * scale, err_msg=f"{name} {at}")
        at = stop
    assert at == 40_000


def test_sums_are_known():
    assert SUMS < NAMES


def test_many_problems_are_told_at_once():
    wanted = [Indicator("SMAA"), Indicator("SMA", {"timeperiodd": 1}), Indicator("EMA", {"timeperiod": 1e12})]
    with pytest.raises(InvalidArgument) as caught:
        prepare(wanted)
    fields = [one.field for one in caught.value.violations]
    assert fields == ["indicators[0].name", "indicators[1].params.timeperiodd", "indicators[2].params"]
