"""Several results side by side."""

import dataclasses
import json
import re

import numpy as np
import pytest

from klinecast.report import ComparedResult, ComparisonData, compared_result, render_comparison
from klinecast.report.compare import find_best
from tests.reports import HOUR_MS, make_equity, make_result, make_trades

HOSTILE = "</script><img src=x onerror=alert(1)>"


def make_compared(rows: int = 300, *, seed: int = 1, step_ms: int = HOUR_MS, skip: int = 0) -> ComparedResult:
    """Return a result that begins `skip` klines late."""
    equity = {name: values[skip:] for name, values in make_equity(rows, seed=seed, step_ms=step_ms).items()}
    return compared_result(make_result(equity, make_trades(40, seed=seed), result_id=f"{seed:08d}-0"), equity)


def _embedded(*results: ComparedResult) -> dict[str, list[list[float | None]]]:
    page = render_comparison(ComparisonData(results=results, differences={}))
    found = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return dict(json.loads(found[1]))


def test_growth_starts_at_one_and_has_nothing_before_a_later_start() -> None:
    one, two = make_compared(seed=1), make_compared(seed=2, skip=100)
    times, first, second = _embedded(one, two)["growth"]
    assert times == (one.open_time_ms // 1000).tolist()
    assert first == pytest.approx(one.equity / one.initial_cash, rel=1e-6)
    assert second[:100] == [None] * 100
    assert second[100:] == pytest.approx(two.equity / two.initial_cash, rel=1e-6)


def test_results_of_other_intervals_share_one_axis() -> None:
    hours, days = make_compared(240), make_compared(20, seed=2, step_ms=24 * HOUR_MS)
    times, first, second = _embedded(hours, days)["growth"]
    assert (np.diff(np.array(times, dtype=float)) > 0).all()
    assert [time for time, value in zip(times, second, strict=True) if value is not None] == (
        days.open_time_ms // 1000
    ).tolist()
    assert sum(value is not None for value in first) == 240


def test_eight_long_results_make_a_bounded_page_that_keeps_extremes() -> None:
    results = [make_compared(525_600, seed=seed, step_ms=60_000) for seed in range(8)]
    page = render_comparison(ComparisonData(results=results, differences={}))
    assert len(page.encode()) < 3 * 1024 * 1024
    found = _embedded(*results)
    assert len(found["growth"][0]) <= 2_000
    for one, curve in zip(results, found["growth"][1:], strict=True):
        assert max(value for value in curve if value is not None) == pytest.approx(one.equity.max() / 10_000, rel=1e-6)


def test_labels_and_differences_are_escaped() -> None:
    one = dataclasses.replace(make_compared(), label=HOSTILE, series=HOSTILE)
    page = render_comparison(ComparisonData(results=[one, one], differences={HOSTILE: [HOSTILE, ""]}))
    assert "<img" not in page
    assert page.count("</script>") == 2
    assert "<td>–</td></tr>" in page


@pytest.mark.parametrize(("count", "said"), [(300, ""), (1_312, "1,012 more are not shown.")])
def test_differences_beyond_the_table_are_counted(count: int, said: str) -> None:
    differences = {f"params.p{number}": ["1", "2"] for number in range(count)}
    page = render_comparison(ComparisonData(results=[make_compared(), make_compared(seed=2)], differences=differences))
    assert page.count('<th scope="row">params.') == 300
    assert re.findall(r"[\d,]+ more are not shown\.", page) == [said] * bool(said)


def test_the_best_is_marked_for_eyes_and_ears() -> None:
    low, high = make_compared(seed=1), make_compared(seed=2)
    low = dataclasses.replace(low, statistics={"sharpe": 0.5, "max_drawdown": -0.1, "turnover": 1.0})
    high = dataclasses.replace(high, statistics={"sharpe": 1.5, "max_drawdown": -0.3, "turnover": 2.0})
    page = render_comparison(ComparisonData(results=[low, high], differences={}))
    rows = dict(re.findall(r'<tr><th scope="row">([^<]*)</th>(.*?)</tr>', page))
    assert re.sub("<[^>]*>", " ", rows["Sharpe"]).split() == ["0.50", "1.50", "★", "(best)"]
    assert re.sub("<[^>]*>", " ", rows["Max drawdown"]).split() == ["−10.00%", "★", "(best)", "−30.00%"]
    assert "best" not in rows["Turnover, times equity"]


@pytest.mark.parametrize(
    ("values", "better", "best"),
    [
        ([1.0, 2.0, 2.0], 1, {1, 2}),
        ([1.0, 2.0, None], -1, {0}),
        ([1.0, 1.0], 1, set()),
        ([1.0, None], 1, set()),
        ([1.0, 2.0], 0, set()),
        ([1.0, 2.0, float("nan")], 1, {1}),
    ],
)
def test_which_is_best(values: list[float | None], better: int, best: set[int]) -> None:
    assert find_best(values, better) == best


def test_different_ranges_are_said_and_equal_ones_not() -> None:
    same = render_comparison(ComparisonData(results=[make_compared(), make_compared(seed=2)], differences={}))
    other = render_comparison(ComparisonData(results=[make_compared(), make_compared(200)], differences={}))
    assert "cover different times" not in same
    assert "cover different times" in other


def test_equity_that_was_not_kept_leaves_the_other() -> None:
    one = dataclasses.replace(make_compared(), equity=np.empty(0), open_time_ms=np.empty(0, np.int64))
    times, first, second = _embedded(one, make_compared(seed=2))["growth"]
    assert first == [None] * len(times)
    assert None not in second


def test_one_result_or_nine_or_texts_that_do_not_match_are_refused() -> None:
    for count in (1, 9):
        with pytest.raises(ValueError, match="2 to 8 results"):
            ComparisonData(results=[make_compared()] * count, differences={})
    with pytest.raises(ValueError, match="1 texts for 2 results"):
        ComparisonData(results=[make_compared()] * 2, differences={"params.fast": ["1"]})
