"""What every command shares: the targets, printing as a table or as JSON, reading dates and markets."""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from klinecast.client import Client, Security
from klinecast.interval import Interval
from klinecast.series import SYMBOL_PATTERN, VENUE_PATTERN, SeriesKey
from klinecast.types import MarketType

JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON document")]
SymbolOption = Annotated[str, typer.Option("--symbol", help="the venue's spelling, for example BTCUSDT")]
SymbolsOption = Annotated[
    list[str],
    typer.Option("--symbol", help="the venue's spelling, for example BTCUSDT; several times for several series"),
]
IntervalOption = Annotated[str, typer.Option("--interval", help="1m 3m 5m 15m 30m 1h 2h 4h 6h 8h 12h 1d 3d 1w 1M")]
VenueOption = Annotated[str, typer.Option("--venue", help="where it trades")]
MarketTypeOption = Annotated[str, typer.Option("--market-type", help="spot, linear_perpetual or inverse_perpetual")]


@dataclass(frozen=True, slots=True)
class Session:
    """Where the services are, and who calls."""

    data: str
    backtest: str
    results: str
    security: Security

    def client(self) -> Client:
        """Return a client; use it as a context manager."""
        return Client(data=self.data, backtest=self.backtest, results=self.results, security=self.security)


def usage_error(option: str, problem: str) -> typer.BadParameter:
    """Return the error of a wrong option: exit code 2, naming it."""
    return typer.BadParameter(problem, param_hint=f"'{option}'")


def parse_series(symbol: str, interval: str, venue: str, market_type: str) -> SeriesKey:
    """Build the identity of a series from options."""
    if interval not in list(Interval):
        raise usage_error("--interval", f"{interval!r} is none of {' '.join(Interval)}")
    if market_type.upper() not in list(MarketType):
        raise usage_error("--market-type", f"{market_type!r} is none of {' '.join(MarketType).lower()}")
    if not SYMBOL_PATTERN.fullmatch(symbol):
        raise usage_error("--symbol", "must be 1..64 characters of A-Z a-z 0-9 . _ : / -")
    if not VENUE_PATTERN.fullmatch(venue):
        raise usage_error("--venue", "must be 1..32 characters of A-Z 0-9 _ -")
    return SeriesKey(venue, MarketType(market_type.upper()), symbol, Interval(interval))


def parse_time(option: str, text: str) -> int:
    """Read YYYY-MM-DD or ISO 8601, UTC unless it says otherwise, as epoch milliseconds."""
    try:
        time = dt.datetime.fromisoformat(text)
    except ValueError:
        raise usage_error(option, f"{text!r} is no date like 2024-01-01 or 2024-01-01T12:00") from None
    aware = time if time.tzinfo else time.replace(tzinfo=dt.UTC)
    return round(aware.timestamp() * 1000)


def format_time(time_ms: int | None) -> str:
    """Write epoch milliseconds as 2024-01-01 12:00 UTC."""
    if time_ms is None:
        return "-"
    return dt.datetime.fromtimestamp(time_ms / 1000, dt.UTC).strftime("%Y-%m-%d %H:%M")


def print_json(document: object) -> None:
    """Print one JSON document on standard output."""
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False, default=str) + "\n")


def print_error(text: str) -> None:
    """Print an error for people on standard error."""
    sys.stderr.write(f"error: {text}\n")


def print_rows(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
    """Print a table, numbers to the right; plain tab-separated lines where nobody looks on."""
    console = Console()
    if not console.is_terminal:
        for row in [columns] if title is None else [[title], columns]:
            print("\t".join(row))
        for cells in rows:
            print("\t".join(map(str, cells)))
        return
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
    for cells in rows:
        table.add_row(*map(str, cells))
    console.print(table)


def parse_pairs(option: str, pairs: Iterable[str]) -> dict[str, str]:
    """Read NAME=VALUE options."""
    parsed: dict[str, str] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise usage_error(option, f"{pair!r} is not NAME=VALUE")
        parsed[name] = value
    return parsed


def parse_value(text: str) -> float | int | str | bool | None:
    """Read a value as the JSON scalar it is, else as text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, (int, float, bool)) or value is None else text


def columns_as_rows(columns: Mapping[str, Sequence[object]], names: Sequence[str]) -> Iterable[list[object]]:
    """Turn columns into rows."""
    return (list(cells) for cells in zip(*(columns[name] for name in names), strict=True))
