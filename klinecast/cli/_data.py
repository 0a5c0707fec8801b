"""klinecast series, gaps, strategies."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import typer

from klinecast.cli._session import (
    IntervalOption,
    JsonOption,
    MarketTypeOption,
    Session,
    SymbolOption,
    VenueOption,
    format_time,
    parse_series,
    print_json,
    print_rows,
)
from klinecast.client import Client, SeriesKey


def register(app: typer.Typer) -> None:
    """Add the commands to the top level."""
    app.command("series", help="List the stored series.")(series)
    app.command("gaps", help="List the runs of missing klines of a series.")(gaps)
    app.command("strategies", help="List the strategies that can be backtested.")(strategies)


def series(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the stored series."""
    with _client(context) as client:
        found = list(client.list_series())
    if as_json:
        print_json([_series_document(one.series) | _without_series(dataclasses.asdict(one)) for one in found])
        return
    rows = (
        (
            one.series,
            one.kline_count,
            format_time(one.first_open_time_ms),
            format_time(one.last_open_time_ms),
            one.gap_count,
            one.revision,
        )
        for one in found
    )
    print_rows(("series", "klines", "first (UTC)", "last (UTC)", "gaps", "revision"), rows)


def gaps(
    context: typer.Context,
    symbol: SymbolOption,
    interval: IntervalOption,
    venue: VenueOption = "BINANCE",
    market_type: MarketTypeOption = "spot",
    as_json: JsonOption = False,
) -> None:
    """List the runs of missing klines."""
    key = parse_series(symbol, interval, venue, market_type)
    with _client(context) as client:
        found = list(client.list_gaps(key))
    if as_json:
        print_json([dataclasses.asdict(gap) for gap in found])
        return
    rows = (
        (format_time(gap.first_open_time_ms), format_time(gap.last_open_time_ms), gap.missing_count) for gap in found
    )
    print_rows(("first missing (UTC)", "last missing (UTC)", "missing"), rows)


def strategies(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the strategies with their params."""
    with _client(context) as client:
        found = client.list_strategies()
    if as_json:
        print_json([dataclasses.asdict(strategy) for strategy in found])
        return
    rows = ((one.name, one.version, _describe_params(one.params_schema), one.description) for one in found)
    print_rows(("strategy", "version", "params", "description"), rows)


def _client(context: typer.Context) -> Client:
    session: Session = context.obj
    return session.client()


def _series_document(key: SeriesKey) -> dict[str, object]:
    return {
        "venue": key.venue,
        "market_type": key.market_type.value,
        "symbol": key.symbol,
        "interval": key.interval.value,
    }


def _without_series(document: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in document.items() if name != "series"}


def _describe_params(schema: Mapping[str, object]) -> str:
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return "-"
    return " ".join(
        f"{name}={_short(one['default'])}" if "default" in one else name for name, one in sorted(properties.items())
    )


def _short(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value
