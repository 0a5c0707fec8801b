"""The page of one result: escaped, of bounded size, and without a way out."""

import base64
import dataclasses
import hashlib
import json
import re
import time
from html.parser import HTMLParser

import pytest

from klinecast.report import ReportData, render_report, report_data
from tests.reports import make_averages, make_equity, make_result, make_series_results, make_trades

HOSTILE = "</script><img src=x onerror=alert(1)>\"'<!--data--><!--script-->"
LIMIT = 3 * 1024 * 1024


class _Tags(HTMLParser):
    """Notes every element and its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def data() -> ReportData:
    """Return a year of hours traded by crossing averages."""
    equity, trades = make_averages()
    return report_data(make_result(equity, trades), equity, trades)


def _embedded(page: str) -> dict[str, list[list[object]]]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return dict(json.loads(found[1]))


def test_hostile_texts_stay_texts() -> None:
    equity, trades = make_equity(500), make_trades(5)
    several = make_series_results(("BTCUSDT", "ETHUSDT"), {})
    data = report_data(make_result(equity, trades, series_results=several), equity, trades)
    series = {f"{HOSTILE}{number}": statistics for number, statistics in enumerate(data.each_series.values())}
    texts = dict.fromkeys(("backtest_id", "strategy", "strategy_version", "series"), HOSTILE)
    page = render_report(
        dataclasses.replace(
            data,
            params={HOSTILE: HOSTILE},
            execution={HOSTILE: [HOSTILE]},
            statistics={HOSTILE: 1.0},
            each_series=series,
            trades={**data.trades, "series": data.trades["series"] + HOSTILE},
            **texts,  # type: ignore[arg-type]
        )
    )
    tags = _Tags(page).found
    assert "img" not in [tag for tag, _ in tags]
    assert [tag for tag, _ in tags].count("script") == 2
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]
    assert _embedded(page)["trades"][-1][0].endswith(HOSTILE)  # type: ignore[attr-defined]


def test_the_page_is_alone_and_runs_no_script_but_its_own(data: ReportData) -> None:
    page = render_report(data)
    without_comments = re.sub(r"/\*.*?\*/", "", page, flags=re.DOTALL)
    assert not re.findall(r"https?://|url\(|@import|//cdn", without_comments)
    tags = _Tags(page).found
    assert not [one for tag, one in tags if tag != "link" and one.keys() & {"src", "srcset", "action"}]
    (policy,) = [str(one["content"]) for _, one in tags if one.get("http-equiv") == "Content-Security-Policy"]
    script = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)[-1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; script-src 'sha256-{digest}'; ")
    assert "Permission is hereby granted" in script


def test_a_page_of_a_million_trades_is_bounded_and_quick() -> None:
    equity, trades = make_equity(525_600, step_ms=60_000), make_trades(1_000_000)
    began = time.process_time()
    page = render_report(report_data(make_result(equity, trades), equity, trades))
    assert time.process_time() - began < 5.0  # a loop over rows takes longer
    assert len(page.encode()) < LIMIT
    assert "2,000 of 1,000,000 trades, the first ones by entry" in page
    found = _embedded(page)
    assert {len(one) for one in found["trades"]} == {2_000}
    for name in ("equity", "drawdown", "price"):
        assert max(map(len, found[name])) <= 2_000
    assert sum(found["spread"][1]) == 1_000_000  # type: ignore[arg-type]


def test_trades_keep_every_digit_and_curves_the_cents() -> None:
    equity, trades = make_equity(500), make_trades(5)
    trades["profit"][0], equity["equity"][0] = 1234567.89, 7654321.987654
    found = _embedded(render_report(report_data(make_result(equity, trades), equity, trades)))
    assert found["trades"][6] == trades["profit"].tolist()
    assert found["equity"][1][0] == 7654321.99


def test_long_texts_and_many_params_are_cut(data: ReportData) -> None:
    params = {f"{number}{'x' * 5_000}": "y" * 5_000 for number in range(5_000)}
    several = {f"{number}{'z' * 5_000}": {"trade_count": 1.0} for number in range(1_000)}
    page = render_report(dataclasses.replace(data, params=params, strategy="s" * 100_000, each_series=several))
    assert len(page.encode()) < LIMIT


def test_first_trades_are_those_entered_first() -> None:
    equity, trades = make_equity(500), make_trades(4_000)
    trades = {name: values[::-1] for name, values in trades.items()}
    found = _embedded(render_report(report_data(make_result(equity, trades), equity, trades)))
    assert found["trades"][0] == sorted(trades["entry_time_ms"].tolist())[:2_000]


def test_a_month_that_lost_is_told_from_one_that_won(data: ReportData) -> None:
    page = render_report(data)
    table = page[page.index('class="months"') : page.index('id="s-spread"')]
    assert table.count("<td") == 13
    total = data.final_equity / data.initial_cash - 1
    assert f"{total:+.1%}".replace("-", "−") in table[table.index('"total') :]


def test_several_series_have_a_table_and_no_price(data: ReportData) -> None:
    several = {"A": {"profit": 12.5, "trade_count": 3.0}, "B": {"profit": -1.0}}
    page = render_report(dataclasses.replace(data, each_series=several))
    assert '<th scope="row">A</th><td>12.50</td>' in page
    assert 'id="price"' not in page
    assert "<title>dual_ma on 2 series</title>" in page


def test_a_result_without_equity_and_trades_is_a_page() -> None:
    equity, trades = make_averages(500)
    data = report_data(make_result(equity, trades, statistics={}), {}, {})
    found = _embedded(render_report(data))
    assert found["equity"] == [[], [], []]
    assert found["trades"][0] == []
