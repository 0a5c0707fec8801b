"""klinecast check: what makes a series doubtful."""

from __future__ import annotations

import dataclasses
from typing import Annotated

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
    parse_time,
    print_json,
    print_rows,
)
from klinecast.models import CheckReport, Finding

_JumpOption = Annotated[float, typer.Option(help="a close this far from the one before is a jump, as a fraction")]
_QuietOption = Annotated[int, typer.Option(help="a run of so many klines without volume is reported")]
_StartOption = Annotated[str | None, typer.Option("--start", help="only klines from this time on")]
_EndOption = Annotated[str | None, typer.Option("--end", help="only klines before this time")]


def register(app: typer.Typer) -> None:
    """Add the command to the top level."""
    app.command("check", help="Report gaps, dead stretches, jumps, rewritten and refused klines of a series.")(check)


def check(
    context: typer.Context,
    symbol: SymbolOption,
    interval: IntervalOption,
    venue: VenueOption = "BINANCE",
    market_type: MarketTypeOption = "spot",
    start: _StartOption = None,
    end: _EndOption = None,
    jump_bound: _JumpOption = 0.2,
    zero_volume_klines: _QuietOption = 10,
    as_json: JsonOption = False,
) -> None:
    """Check a series; what is found does not change the exit code."""
    key = parse_series(symbol, interval, venue, market_type)
    session: Session = context.obj
    with session.client() as client:
        report = client.check_series(
            key,
            start_ms=None if start is None else parse_time("--start", start),
            end_ms=None if end is None else parse_time("--end", end),
            jump_bound=jump_bound,
            zero_volume_klines=zero_volume_klines,
        )
    if as_json:
        print_json({"series": str(key), **dataclasses.asdict(report)})
        return
    _print(report)


def _print(report: CheckReport) -> None:
    if not report.counts:
        print(f"{report.kline_count} klines at revision {report.revision}, nothing found")
        return
    rows = [(kind.value, count.findings, count.klines) for kind, count in report.counts.items()]
    print_rows(("finding", "times", "klines"), rows, title=f"{report.kline_count} klines at revision {report.revision}")
    print()
    found = [
        (
            one.kind.value,
            format_time(one.first_open_time_ms),
            format_time(one.last_open_time_ms),
            one.kline_count,
            _describe(one),
        )
        for one in report.findings
    ]
    print_rows(("finding", "first (UTC)", "last (UTC)", "klines", "what"), found)


def _describe(finding: Finding) -> str:
    return finding.reason if finding.change is None else f"{finding.change:+.1%}"
