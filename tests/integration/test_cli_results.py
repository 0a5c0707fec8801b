"""klinecast results: lists, exports, comparisons, retention. Each test's results have a label of their own."""

import csv
import json
import uuid
from pathlib import Path

import pytest

from klinecast.client import Client, Result
from tests.results import make_equity, make_trades, save
from tests.suite import Suite


@pytest.fixture
def client(suite: Suite):
    with suite.client() as client:
        yield client


@pytest.fixture
def label() -> str:
    return uuid.uuid4().hex[:8]


@pytest.fixture
def two(client: Client, label: str) -> tuple[Result, Result]:
    options = {"labels": {"cli": label}, "equity": make_equity(300), "trades": make_trades(20)}
    return (
        save(client, statistics={"sharpe": 2.5, "total_return": 0.1}, params={"fast": 5}, **options),
        save(client, statistics={"sharpe": 0.5, "total_return": 0.2}, params={"fast": 9}, **options),
    )


def test_results_are_listed_by_label_and_statistic(klinecast, two: tuple[Result, Result], label: str) -> None:
    better, worse = (one.result_id for one in two)
    for arguments, found in (
        (("--order-by", "sharpe"), [better, worse]),
        (("--order-by", "sharpe", "--ascending"), [worse, better]),
        ((), [worse, better]),
        (("--interval", "1h", "--limit", "1"), [worse]),
        (("--interval", "5m"), []),
    ):
        done = klinecast("results", "list", "--label", f"cli={label}", *arguments, "--json")
        assert [one["result_id"] for one in json.loads(done.stdout)] == found, arguments
    table = klinecast("results", "list", "--label", f"cli={label}", "--order-by", "sharpe").stdout
    assert table.index("sharpe") < table.index("2.5") < table.index("0.5")


def test_trades_and_equity_are_exported_exactly(
    klinecast, client: Client, two: tuple[Result, Result], tmp_path
) -> None:
    result_id = two[0].result_id
    for what, loaded in (("trades", client.load_trades(result_id)), ("equity", client.load_equity(result_id))):
        file = tmp_path / "new" / f"{what}.csv"
        assert klinecast("results", what, result_id, "--csv", str(file)).returncode == 0
        header, *rows = csv.reader(file.read_text().splitlines())
        assert header == list(loaded)
        for name, texts in zip(header, zip(*rows, strict=True), strict=True):
            assert [float(text) for text in texts] == loaded[name].tolist()


def test_equity_is_thinned(klinecast, two: tuple[Result, Result]) -> None:
    found = json.loads(klinecast("results", "equity", two[0].result_id, "--points", "50", "--json").stdout)
    assert 10 < len(found["equity"]) <= 50
    assert max(found["equity"]) == make_equity(300)["equity"].max()


def test_results_are_compared(klinecast, two: tuple[Result, Result], tmp_path: Path) -> None:
    ids, report = [one.result_id for one in two], tmp_path / "both.html"
    found = json.loads(klinecast("results", "compare", *ids, "--report", str(report), "--json").stdout)
    assert found["statistics"]["sharpe"] == [2.5, 0.5]
    assert found["differences"]["config.params.fast"] == ["5", "9"]
    assert report.read_text().startswith("<!doctype html>")
    table = klinecast("results", "compare", *ids).stdout
    assert "config.params.fast" in table
    done = klinecast("results", "compare", ids[0], str(uuid.uuid4()))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_the_audit_tells_what_went(klinecast, client: Client, two: tuple[Result, Result]) -> None:
    client.delete_result(two[0].result_id)
    found = json.loads(klinecast("results", "audit", "--reason", "deleted", "--limit", "1", "--json").stdout)
    assert [(one["result_id"], one["reason"]) for one in found] == [(two[0].result_id, "DELETED")]
    assert two[0].result_id in klinecast("results", "audit").stdout
    assert klinecast("results", "audit", "--reason", "boredom").returncode == 2
