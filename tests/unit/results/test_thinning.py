"""A thinned curve has no more points than asked, and every peak and trough that a chart would show."""

from __future__ import annotations

import numpy as np
import pytest

from services.results.thinning import Thinner
from tests.results import make_equity


def thin(columns: dict, max_points: int, chunk: int) -> dict:
    total = len(columns["equity"])
    thinner = Thinner(total, max_points)
    for start in range(0, total, chunk):
        thinner.feed({name: column[start : start + chunk] for name, column in columns.items()})
    return thinner.finish()


@pytest.mark.parametrize("chunk", [1, 7, 1000, 16_384, 100_000])
@pytest.mark.parametrize("max_points", [10, 99, 1_000])
def test_peaks_troughs_and_ends_stay(max_points: int, chunk: int) -> None:
    columns = make_equity(5_003)
    found = thin(columns, max_points, chunk)
    assert len(found["equity"]) <= max_points
    assert (np.diff(found["open_time_ms"]) > 0).all()
    assert found["open_time_ms"][[0, -1]].tolist() == columns["open_time_ms"][[0, -1]].tolist()
    for name in ("equity", "close"):
        assert (found[name].min(), found[name].max()) == (columns[name].min(), columns[name].max())
    rows = np.searchsorted(columns["open_time_ms"], found["open_time_ms"])
    assert (columns["equity"][rows] == found["equity"]).all()


def test_how_it_arrives_does_not_matter() -> None:
    columns = make_equity(10_000)
    whole, pieces = thin(columns, 500, 10_000), thin(columns, 500, 13)
    assert all((whole[name] == pieces[name]).all() for name in whole)


def test_each_stretch_keeps_its_own_lowest_and_highest() -> None:
    columns = make_equity(4_000)
    found = thin(columns, 402, 512)  # a hundred stretches of forty rows
    stretches = columns["equity"].reshape(100, 40)
    kept = set(found["equity"].tolist())
    assert set(stretches.min(axis=1)) | set(stretches.max(axis=1)) <= kept


def test_few_rows_stay_as_they_are_and_none_are_none() -> None:
    columns = make_equity(50)
    assert (thin(columns, 50, 9)["equity"] == columns["equity"]).all()
    assert Thinner(0, 10).finish() == {}
