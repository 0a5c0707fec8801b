"""klinecast backtest run, list, get, watch, cancel."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from klinecast.cli._document import run_document
from klinecast.cli._follow import follow
from klinecast.cli._report import write_report
from klinecast.cli._session import (
    IntervalOption,
    JsonOption,
    MarketTypeOption,
    Session,
    SymbolsOption,
    VenueOption,
    format_time,
    parse_pairs,
    parse_series,
    parse_time,
    parse_value,
    print_error,
    print_json,
    print_rows,
    usage_error,
)
from klinecast.client import Backtest, BacktestConfig, BacktestEvent, Client, Interval, SeriesResult
from klinecast.report import with_profit
from klinecast.types import Account, ExecutionModel

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
SERIES_STATISTICS = (
    "profit",
    "total_return",
    "buy_and_hold_return",
    "max_drawdown",
    "trade_count",
    "win_rate",
    "total_fees",
)
_MODES = ("long_only", "long_short")


@app.command("run")
def run(
    context: typer.Context,
    strategy: Annotated[str, typer.Argument(help="name of a strategy, see klinecast strategies")],
    symbol: SymbolsOption,
    interval: IntervalOption,
    start: Annotated[str, typer.Option(help="first instant, inclusive, UTC")],
    end: Annotated[str, typer.Option(help="last instant, exclusive, UTC")],
    param: Annotated[list[str] | None, typer.Option("--param", "-p", help="NAME=VALUE of a param")] = None,
    mode: Annotated[str | None, typer.Option(help="long_only or long_short")] = None,
    account: Annotated[
        str, typer.Option(help="several symbols: separate (an equal share each) or shared")
    ] = "separate",
    cash: Annotated[float, typer.Option(help="start money, quote units")] = 10_000.0,
    taker_fee_bps: Annotated[float | None, typer.Option(help="fee of market orders, basis points")] = None,
    slippage_bps: Annotated[float | None, typer.Option(help="price worsening of market orders, basis points")] = None,
    execution: Annotated[list[str] | None, typer.Option(help="KEY=VALUE of the execution model")] = None,
    venue: VenueOption = "BINANCE",
    market_type: MarketTypeOption = "spot",
    finer_interval: Annotated[
        str | None, typer.Option(help="klines that decide where a stop and a target are both touched, for example 1m")
    ] = None,
    warmup_klines: Annotated[int, typer.Option(help="klines before the start that the strategy sees")] = 0,
    priority: Annotated[int, typer.Option(help="0..9, 9 first")] = 4,
    label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE label")] = None,
    request_id: Annotated[str | None, typer.Option(help="makes the call idempotent")] = None,
    no_reuse: Annotated[bool, typer.Option("--no-reuse", help="always compute")] = False,
    report: Annotated[Path | None, typer.Option(help="write the HTML report here")] = None,
    cancel_on_interrupt: Annotated[bool, typer.Option(help="Ctrl-C cancels instead of detaching")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a backtest and follow it to its end."""
    keys = [parse_series(one, interval, venue, market_type) for one in symbol]
    if account.upper() not in list(Account):
        raise usage_error("--account", f"{account!r} is none of {' '.join(Account).lower()}")
    rules = {name: parse_value(value) for name, value in parse_pairs("--execution", execution or []).items()}
    rules |= {"market_type": keys[0].market_type}
    rules |= {"taker_fee_bps": taker_fee_bps} if taker_fee_bps is not None else {}
    rules |= {"slippage_bps": slippage_bps} if slippage_bps is not None else {}
    if mode not in (None, *_MODES):
        raise usage_error("--mode", f"{mode!r} is none of {' '.join(_MODES)}")
    if finer_interval is not None and finer_interval not in list(Interval):
        raise usage_error("--finer-interval", f"{finer_interval!r} is none of {' '.join(Interval)}")
    try:
        model = ExecutionModel.from_dict(rules)
    except (ValueError, TypeError) as error:
        raise usage_error("--execution", str(error)) from None
    config = BacktestConfig(
        strategy=strategy,
        series=keys[0] if len(keys) == 1 else keys,
        start_ms=parse_time("--start", start),
        end_ms=parse_time("--end", end),
        params={name: parse_value(value) for name, value in parse_pairs("--param", param or []).items()},
        mode=mode,
        warmup_klines=warmup_klines,
        initial_cash=cash,
        execution=model,
        priority=priority,
        labels=parse_pairs("--label", label or []),
        allow_reuse=not no_reuse,
        account=Account(account.upper()),
        finer_interval=None if finer_interval is None else Interval(finer_interval),
    )
    session: Session = context.obj
    with session.client() as client:
        events = client.run_backtest(config, request_id=request_id)
        _follow_and_print(client, events, report, as_json=as_json, cancels=cancel_on_interrupt)


@app.command("watch")
def watch(
    context: typer.Context,
    backtest_id: str,
    after_sequence: Annotated[int, typer.Option(help="only events after this number")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Follow a backtest from its first event to its end."""
    session: Session = context.obj
    with session.client() as client:
        events = client.watch_backtest(backtest_id, after_sequence=after_sequence)
        _follow_and_print(client, events, None, as_json=as_json, cancels=False, backtest_id=backtest_id)


@app.command("list")
def list_(
    context: typer.Context,
    state: Annotated[list[str] | None, typer.Option(help="only this state")] = None,
    strategy: Annotated[str, typer.Option(help="only this strategy")] = "",
    limit: Annotated[int, typer.Option(help="at most so many", min=1)] = 20,
    as_json: JsonOption = False,
) -> None:
    """List backtests, newest first."""
    session: Session = context.obj
    states = [one.upper() for one in state or []]
    unknown = [one for one in states if one not in ("QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED")]
    if unknown:
        raise usage_error("--state", f"{unknown[0]} is no state")
    with session.client() as client:
        found = list(client.list_backtests(states=states, strategy=strategy, limit=limit))
    if as_json:
        print_json([dataclasses.asdict(one) for one in found])
        return
    rows = ((one.backtest_id, one.strategy, one.series, one.state, format_time(one.create_time_ms)) for one in found)
    print_rows(("backtest", "strategy", "series", "state", "created (UTC)"), rows)


@app.command("get")
def get(context: typer.Context, backtest_id: str, as_json: JsonOption = False) -> None:
    """Show one backtest."""
    session: Session = context.obj
    with session.client() as client:
        _print_backtest(client.get_backtest(backtest_id), as_json=as_json)


@app.command("cancel")
def cancel(context: typer.Context, backtest_id: str, as_json: JsonOption = False) -> None:
    """Cancel a backtest: a queued one at once, a running one within a second."""
    session: Session = context.obj
    with session.client() as client:
        _print_backtest(client.cancel_backtest(backtest_id), as_json=as_json)


def _print_backtest(backtest: Backtest, *, as_json: bool) -> None:
    document = dataclasses.asdict(backtest)
    if as_json:
        print_json(document)
    else:
        print_rows(("field", "value"), [(name, value) for name, value in document.items() if value is not None])


def _follow_and_print(
    client: Client,
    events: Iterator[BacktestEvent],
    report: Path | None,
    *,
    as_json: bool,
    cancels: bool,
    backtest_id: str | None = None,
) -> None:
    seen: list[BacktestEvent] = []
    try:
        follow(events, seen)
    except KeyboardInterrupt:
        _interrupted(client, seen[-1].backtest_id if seen else backtest_id, cancels=cancels)
    if not seen and backtest_id is None:
        raise typer.Exit(1)
    backtest = client.get_backtest(seen[-1].backtest_id if seen else str(backtest_id))
    result = client.get_result(backtest.result_id) if backtest.state == "SUCCEEDED" and backtest.result_id else None
    if result is not None and report is not None:
        write_report(client, report, result.result_id)
    document = run_document(backtest, result, report if result is not None else None)
    if as_json:
        print_json(document)
    elif result is not None:
        rows = [("final_equity", f"{result.final_equity:,.2f}"), ("klines", f"{result.klines:,}")]
        rows += [(name, f"{value:,.6g}") for name, value in result.statistics.items()]
        print_rows(("statistic", "value"), rows, title=f"{result.strategy} on {result.series}")
        if result.series_results:
            print_rows(("series", *SERIES_STATISTICS), map(_series_row, result.series_results), title="each series")
        print(f"backtest {backtest.backtest_id} {backtest.state}" + (f", report {report}" if report else ""))
    elif backtest.error is not None:
        print_error(f"{backtest.error.reason}: {backtest.error.message}")
        print_error(backtest.error.detail) if backtest.error.detail else None
    else:
        print(f"backtest {backtest.backtest_id} {backtest.state}")
    if backtest.state != "SUCCEEDED":
        raise typer.Exit(1)


def _series_row(one: SeriesResult) -> tuple[str, ...]:
    statistics = with_profit(one)
    found = [statistics.get(name) for name in SERIES_STATISTICS]
    return (str(one.series), *("" if value is None else f"{value:,.6g}" for value in found))


def _interrupted(client: Client, backtest_id: str | None, *, cancels: bool) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if backtest_id is not None and cancels:
        client.cancel_backtest(backtest_id)
        print_error(f"cancelled backtest {backtest_id}")
    elif backtest_id is not None:
        print_error(f"detached; the backtest goes on: klinecast backtest watch {backtest_id}")
    raise typer.Exit(130)
