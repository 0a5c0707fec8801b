"""klinecast results list, get, trades, equity, pin, unpin."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from klinecast.cli._report import write_report
from klinecast.cli._session import JsonOption, Session, columns_as_rows, format_time, print_json, print_rows
from klinecast.client import Client, Result
from klinecast.columns import Column
from klinecast.report import EXIT_REASONS

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
_TRADES = ("entry_time_ms", "exit_time_ms", "side", "quantity", "entry_price", "exit_price", "profit", "fees")


@app.command("list")
def list_(
    context: typer.Context,
    strategy: Annotated[str, typer.Option(help="only this strategy")] = "",
    symbol: Annotated[str, typer.Option(help="only this symbol")] = "",
    limit: Annotated[int, typer.Option(help="at most so many", min=1)] = 20,
    as_json: JsonOption = False,
) -> None:
    """List results, newest first."""
    with _client(context) as client:
        found = list(client.list_results(strategy=strategy, symbol=symbol, limit=limit))
    if as_json:
        print_json([dataclasses.asdict(one) for one in found])
        return
    rows = (
        (
            one.result_id,
            one.strategy,
            one.series,
            f"{one.statistics.get('total_return', float('nan')):+.2%}",
            "pinned" if one.pinned else format_time(one.expire_time_ms),
        )
        for one in found
    )
    print_rows(("result", "strategy", "series", "total return", "expires (UTC)"), rows)


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
            write_report(client, result, report)
    _print_result(result, as_json=as_json)


@app.command("trades")
def trades(context: typer.Context, result_id: str, as_json: JsonOption = False) -> None:
    """Show the trades of a result; the open one is the last."""
    with _client(context) as client:
        columns = client.load_trades(result_id)
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
def equity(context: typer.Context, result_id: str, as_json: JsonOption = False) -> None:
    """Show equity per kline."""
    with _client(context) as client:
        columns = client.load_equity(result_id)
    names = ("open_time_ms", "equity", "close")
    if as_json:
        print_json({name: columns[name].tolist() for name in names})
        return
    rows = ((format_time(int(time)), value, close) for time, value, close in _plain(columns, names))
    print_rows(("open time (UTC)", "equity", "close"), rows)


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
