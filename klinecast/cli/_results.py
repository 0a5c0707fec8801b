"""klinecast results list, get, trades, equity, compare, pin, unpin; retention has a file of its own."""

from __future__ import annotations

import csv as csv_module
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from klinecast.cli._report import write_report
from klinecast.cli._session import (
    JsonOption,
    Session,
    columns_as_rows,
    format_time,
    parse_pairs,
    print_json,
    print_rows,
    usage_error,
)
from klinecast.client import Client, Interval, Result, ResultFilter
from klinecast.columns import Column
from klinecast.report import EXIT_REASONS

CsvOption = Annotated[Path | None, typer.Option("--csv", help="write all columns to this file instead")]
app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
_TRADES = ("entry_time_ms", "exit_time_ms", "side", "quantity", "entry_price", "exit_price", "profit", "fees")


@app.command("list")
def list_(
    context: typer.Context,
    strategy: Annotated[str, typer.Option(help="only this strategy")] = "",
    symbol: Annotated[str, typer.Option(help="only this symbol")] = "",
    interval: Annotated[str, typer.Option(help="only this interval")] = "",
    label: Annotated[list[str], typer.Option(help="NAME=VALUE; only results that carry it; repeatable")] = [],  # noqa: B006
    order_by: Annotated[str, typer.Option(help="a statistic, or final_equity, kline_count, trade_rows, ...")] = "",
    ascending: Annotated[bool, typer.Option("--ascending", help="smallest or oldest first")] = False,
    limit: Annotated[int, typer.Option(help="at most so many", min=1)] = 20,
    as_json: JsonOption = False,
) -> None:
    """List results, newest first or by a statistic."""
    wanted = ResultFilter(
        strategy=strategy,
        symbol=symbol,
        interval=_interval(interval) if interval else None,
        labels=parse_pairs("--label", label),
        order_by=order_by,
        ascending=ascending,
    )
    with _client(context) as client:
        found = list(client.list_results(wanted, limit=limit))
    if as_json:
        print_json([dataclasses.asdict(one) for one in found])
        return
    by_statistic = any(order_by in one.statistics for one in found) and order_by != "total_return"
    rows = (
        (
            one.result_id,
            one.strategy,
            one.series,
            _percent(one.statistics.get("total_return")),
            *([_number(one.statistics.get(order_by))] if by_statistic else []),
            "pinned" if one.pinned else format_time(one.expire_time_ms),
        )
        for one in found
    )
    extra = [order_by] if by_statistic else []
    print_rows(("result", "strategy", "series", "total return", *extra, "expires (UTC)"), rows)


@app.command("get")
def get(
    context: typer.Context,
    result_id: str,
    report: Annotated[Path | None, typer.Option(help="write the HTML report here")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show one result."""
    with _client(context) as client:
        result = client.get_result(result_id)
        if report is not None:
            write_report(client, report, result_id)
    _print_result(result, as_json=as_json)


@app.command("trades")
def trades(context: typer.Context, result_id: str, csv: CsvOption = None, as_json: JsonOption = False) -> None:
    """Show the trades of a result; the open one is the last."""
    with _client(context) as client:
        columns = client.load_trades(result_id)
    if csv is not None:
        _write_csv(csv, columns)
        return
    rows = [
        [format_time(int(row[0])), format_time(int(row[1])) if row[1] >= 0 else "open", *row[2:]]
        for row in _plain(columns, _TRADES)
    ]
    reasons = [EXIT_REASONS[int(one)] for one in columns["exit_reason"]]
    if as_json:
        names = (*columns,)
        print_json([dict(zip(names, row, strict=True)) for row in _plain(columns, names)])
        return
    header = ("entry (UTC)", "exit (UTC)", *_TRADES[2:], "reason")
    print_rows(header, ([*row, reason] for row, reason in zip(rows, reasons, strict=True)))


@app.command("equity")
def equity(
    context: typer.Context,
    result_id: str,
    points: Annotated[int | None, typer.Option(help="thin to so many, peaks and troughs kept", min=10)] = None,
    csv: CsvOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show equity per kline."""
    with _client(context) as client:
        columns = client.load_equity(result_id, max_points=points)
    if csv is not None:
        _write_csv(csv, columns)
        return
    names = ("open_time_ms", "equity", "close")
    if as_json:
        print_json({name: columns[name].tolist() for name in names})
        return
    rows = ((format_time(int(time)), value, close) for time, value, close in _plain(columns, names))
    print_rows(("open time (UTC)", "equity", "close"), rows)


@app.command("compare")
def compare(
    context: typer.Context,
    result_ids: Annotated[list[str], typer.Argument(help="2 to 8 results")],
    report: Annotated[Path | None, typer.Option(help="write the HTML comparison here")] = None,
    as_json: JsonOption = False,
) -> None:
    """Put results side by side: statistics, and what differs in what was asked and read."""
    with _client(context) as client:
        found = client.compare_results(result_ids)
        if report is not None:
            write_report(client, report, *result_ids)
    if as_json:
        print_json({"statistics": dict(found.statistics), "differences": dict(found.differences)})
        return
    header = [f"{one.strategy} {one.result_id[:8]}" for one in found.results]
    statistics = ([name, *map(_number, values)] for name, values in found.statistics.items())
    print_rows(("statistic", *header), statistics)
    differences = ([path, *(value or "-" for value in values)] for path, values in found.differences.items())
    print_rows(("difference", *header), differences)


@app.command("pin")
def pin(context: typer.Context, result_id: str, as_json: JsonOption = False) -> None:
    """Keep a result until it is unpinned."""
    with _client(context) as client:
        _print_result(client.update_retention(result_id, pinned=True), as_json=as_json)


@app.command("unpin")
def unpin(context: typer.Context, result_id: str, as_json: JsonOption = False) -> None:
    """Let a pinned result expire after the default TTL."""
    with _client(context) as client:
        _print_result(client.update_retention(result_id, pinned=False), as_json=as_json)


def _interval(text: str) -> Interval:
    try:
        return Interval(text)
    except ValueError:
        raise usage_error("--interval", f"{text!r} is none of {', '.join(Interval)}") from None


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.6g}"


def _write_csv(path: Path, columns: Mapping[str, Column]) -> None:
    """Write columns with a header line; times are epoch milliseconds, numbers exact."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv_module.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))


def _client(context: typer.Context) -> Client:
    session: Session = context.obj
    return session.client()


def _print_result(result: Result, *, as_json: bool) -> None:
    if as_json:
        print_json(dataclasses.asdict(result))
        return
    expires = "pinned" if result.pinned else format_time(result.expire_time_ms)
    rows: list[tuple[str, object]] = [("result", result.result_id), ("expires (UTC)", expires)]
    rows += [("klines", result.klines), ("final_equity", result.final_equity), ("trades", result.trade_rows)]
    rows += [(name, f"{value:,.6g}") for name, value in result.statistics.items()]
    print_rows(("field", "value"), rows, title=f"{result.strategy} on {result.series}")


def _plain(columns: Mapping[str, Column], names: Sequence[str]) -> list[list[int | float]]:
    return [list(row) for row in columns_as_rows({name: columns[name].tolist() for name in names}, names)]  # type: ignore[arg-type]
