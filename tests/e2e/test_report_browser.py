"""Reports in a real browser: nothing complains, every chart is drawn, tables sort, a phone is wide enough."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from klinecast.report import ComparisonData, compared_result, render_comparison, render_report, report_data
from tests.browser import Browser, Page, find_browser, run_browser
from tests.reports import make_averages, make_result, make_series_results, make_trades

DRAWN = """[...document.querySelectorAll(".chart")].map((box) => {
  const canvas = box.querySelector("canvas");
  if (!canvas) return [box.id, 0];
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let coloured = 0;  // grid and labels are nearly grey, what is drawn of data is not
  for (let i = 0; i < pixels.length; i += 4) {
    const [most, least] = [Math.max(...pixels.slice(i, i + 3)), Math.min(...pixels.slice(i, i + 3))];
    if (pixels[i + 3] > 128 && most - least > 60) coloured += 1;
  }
  return [box.id, coloured];
})"""
LINE = """(() => {  // of the plot's columns, the share in which the line of closes is, whose colour no marker has
  const canvas = document.querySelector("#price canvas"), { width, height } = canvas;
  const [r, g, b] = page.color("--soft").match(/[0-9a-f]{2}/g).map((one) => parseInt(one, 16));
  const [left, across, down] = [0.2, 0.7, 0.75].map((one, i) => Math.floor(one * (i === 2 ? height : width)));
  const pixels = canvas.getContext("2d").getImageData(left, 0, across, down).data, found = new Set();
  for (let i = 0; i < pixels.length; i += 4) {
    if (Math.max(...[r, g, b].map((one, of) => Math.abs(pixels[i + of] - one))) < 40) found.add((i / 4) % across);
  }
  return found.size / across;
})()"""
SCREENSHOTS = Path(__file__).parents[2] / "build" / "report"
COLUMN = """[...document.querySelectorAll("#trades tbody tr")].map((row) => row.cells[6].textContent)"""
CSV = """(async () => {
  let blob; const made = URL.createObjectURL, click = HTMLAnchorElement.prototype.click;
  URL.createObjectURL = (one) => { blob = one; return made(one); };
  HTMLAnchorElement.prototype.click = function () { window.saved = this.download; };
  document.getElementById("csv").click();
  HTMLAnchorElement.prototype.click = click; URL.createObjectURL = made;
  return [window.saved, await blob.text()];
})()"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a report of one result, one of several series, one without anything, and a comparison."""
    equity, trades = make_averages()
    many = make_trades(500, series=3)
    several = make_series_results(("BTCUSDT", "ETHUSDT", "SOLUSDT"), {"sharpe": 1.0})
    results = [compared_result(make_result(equity, trades), equity)]
    for number in range(5):
        other, others = make_averages(7_000 + 100 * number, seed=number)
        results.append(compared_result(make_result(other, others, result_id=f"{number}-other"), other))
    documents = {
        "one": render_report(report_data(make_result(equity, trades, ambiguous_klines=2), equity, trades)),
        "several": render_report(report_data(make_result(equity, many, series_results=several), equity, many)),
        "empty": render_report(report_data(make_result(equity, trades, statistics={}), {}, {})),
        "comparison": render_comparison(ComparisonData(results=results, differences={"params.fast": list("123456")})),
    }
    folder = tmp_path_factory.mktemp("pages")
    for name, document in documents.items():
        (folder / f"{name}.html").write_text(document, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in documents}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return a browser shared by the module's tests."""
    command = find_browser()
    if command is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on PATH")
    with run_browser(command) as browser:
        yield browser


def _charts(page: Page) -> dict[str, int]:
    return dict(page.evaluate(DRAWN))


@pytest.mark.parametrize(
    ("name", "charts"),
    [
        ("one", {"equity", "drawdown", "price", "spread"}),
        ("several", {"equity", "drawdown", "spread"}),
        ("comparison", {"growth", "drawdowns"}),
    ],
)
def test_every_chart_is_drawn_in_both_themes_and_nothing_complains(browser, pages, name, charts):
    page = browser.open(pages[name], fragment="#light")
    light = _charts(page)
    assert light.keys() == charts
    assert min(light.values()) > 300, light
    background = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(background)
    page.evaluate("document.getElementById('theme').click()")
    assert page.evaluate(background) != before
    assert min(_charts(page).values()) > 300
    assert page.complaints() == []


def test_the_price_has_its_line(browser, pages):
    assert browser.open(pages["one"], fragment="#light").evaluate(LINE) > 0.75


@pytest.mark.parametrize("name", ["one", "comparison"])
def test_the_theme_is_the_readers_and_follows_it(browser, pages, name):
    page, background = browser.open(pages[name]), "getComputedStyle(document.body).backgroundColor"
    seen = [page.prefer(theme).evaluate(background) for theme in ("light", "dark", "light")]
    assert seen == ["rgb(244, 246, 249)", "rgb(15, 20, 27)", "rgb(244, 246, 249)"]
    page.evaluate("document.getElementById('theme').click()")
    assert page.prefer("light").evaluate(background) == "rgb(15, 20, 27)"


def test_arrow_keys_read_a_chart(browser, pages):
    page = browser.open(pages["one"])
    shown = "document.querySelector('#equity .u-legend').innerText"
    page.evaluate("document.getElementById('equity').focus()")
    for key in ("ArrowRight", "ArrowLeft"):
        page.call("Input.dispatchKeyEvent", type="rawKeyDown", key=key)
    first = page.evaluate(shown)
    assert "2025-01-01 00:00" in first
    page.call("Input.dispatchKeyEvent", type="rawKeyDown", key="ArrowRight")
    assert page.evaluate(shown) != first
    assert page.complaints() == []


@pytest.mark.parametrize("name", ["one", "several", "empty", "comparison"])
@pytest.mark.parametrize(("look", "width"), [("light", 1200), ("dark", 1200), ("phone", 375)])
def test_screenshots_are_kept_for_people(browser, pages, name, look, width):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page, file = browser.open(pages[name], width=width), SCREENSHOTS / f"{name}-{look}.png"
    page.prefer("dark" if look == "dark" else "light").screenshot(file)
    assert file.stat().st_size > 10_000
    assert page.complaints() == []


@pytest.mark.parametrize("name", ["one", "several", "empty", "comparison"])
def test_a_phone_scrolls_tables_and_not_the_page(browser, pages, name):
    page = browser.open(pages[name], width=375, height=800)
    assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [375, 375]
    assert page.evaluate("[...document.querySelectorAll('canvas')].every((one) => one.clientWidth <= 375)")
    assert page.complaints() == []


def test_trades_sort_by_click_and_by_key(browser, pages):
    page = browser.open(pages["one"])
    head = "document.querySelectorAll('#trades thead th')[6]"
    before = page.evaluate(COLUMN)
    page.evaluate(f"{head}.querySelector('button').click()")
    assert page.evaluate(f"{head}.getAttribute('aria-sort')") == "ascending"
    ascending = page.evaluate(COLUMN)
    values = [float(one.replace(",", "").replace("−", "-")) for one in ascending]
    assert values == sorted(values)
    assert ascending != before
    page.evaluate(f"{head}.querySelector('button').focus()")
    for kind in ("keyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")
    assert page.evaluate(f"{head}.getAttribute('aria-sort')") == "descending"
    assert page.evaluate(COLUMN) == ascending[::-1]
    sorts = page.evaluate("[...document.querySelectorAll('#trades th')].map((one) => one.getAttribute('aria-sort'))")
    assert sorts.count("none") == len(sorts) - 1


def test_the_csv_has_every_trade_listed(browser, pages):
    page = browser.open(pages["several"])
    name, text = page.evaluate(CSV)
    lines = text.split("\r\n")
    assert name == "trades-0197f3a2-5c1e-7d40-9b8e-2f6a1c0d4e55.csv"
    assert lines[0].startswith("entry_time,exit_time,side,quantity,")
    assert len(lines) == 502
    assert lines[1].startswith("2025-01-01T00:00:00.000Z,2025-01-01T01:00:00.000Z,")
    assert json.loads(lines[1].split(",")[-1]) in ("BTCUSDT", "ETHUSDT", "SOLUSDT")
    assert page.complaints() == []


def test_money_is_exact_in_the_csv_and_right_to_the_cent_on_the_page(browser, tmp_path):
    equity, trades = make_averages()
    exact = {"quantity": 0.123456789, "entry_price": 1234567.89, "exit_price": 0.00001234567, "profit": -7654321.98}
    trades = {**trades, **{name: np.full(len(trades["profit"]), value) for name, value in exact.items()}}
    file = tmp_path / "exact.html"
    file.write_text(render_report(report_data(make_result(equity, trades), equity, trades)), encoding="utf-8")
    page = browser.open(file)
    head, first, *_ = (line.split(",") for line in page.evaluate(CSV)[1].split("\r\n"))
    assert {name: float(first[head.index(name)]) for name in exact} == exact
    shown = page.evaluate("[...document.querySelector('#trades tbody tr').cells].map((one) => one.textContent)")
    assert shown[3:7] == ["0.1234568", "1,234,567.89", "0.00001234567", "−7,654,321.98"]


def test_an_empty_report_says_so(browser, pages):
    page = browser.open(pages["empty"])
    shown = page.evaluate("document.querySelector('main').innerText")
    for text in ("Equity was not kept.", "No trade was closed.", "No trade was made."):
        assert text in shown
    assert page.complaints() == []
