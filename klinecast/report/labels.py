"""What statistics are called, how their numbers are written, and which direction is better."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

DASH = "–"
_LONGEST = 300


class Kind(Enum):
    """How a number is written."""

    PERCENT = auto()
    """A change, with its sign."""
    SHARE = auto()
    NUMBER = auto()
    MONEY = auto()
    COUNT = auto()
    DURATION = auto()
    """Seconds."""


@dataclass(frozen=True, slots=True)
class Label:
    """A statistic for people."""

    text: str
    kind: Kind
    better: int = 0
    """+1 when more is better, -1 when less is, 0 when neither."""


STATISTICS = {
    "total_return": Label("Total return", Kind.PERCENT, 1),
    "buy_and_hold_return": Label("Buy and hold", Kind.PERCENT),
    "cagr": Label("CAGR", Kind.PERCENT, 1),
    "profit": Label("Profit", Kind.MONEY, 1),
    "max_drawdown": Label("Max drawdown", Kind.PERCENT, 1),
    "max_drawdown_duration": Label("Longest drawdown", Kind.DURATION, -1),
    "ulcer_index": Label("Ulcer index", Kind.SHARE, -1),
    "annual_volatility": Label("Volatility, a year", Kind.SHARE, -1),
    "value_at_risk_95": Label("Value at risk, 95 %", Kind.PERCENT, 1),
    "expected_shortfall_95": Label("Expected shortfall, 95 %", Kind.PERCENT, 1),
    "sharpe": Label("Sharpe", Kind.NUMBER, 1),
    "sortino": Label("Sortino", Kind.NUMBER, 1),
    "calmar": Label("Calmar", Kind.NUMBER, 1),
    "omega": Label("Omega", Kind.NUMBER, 1),
    "alpha": Label("Alpha, a year", Kind.PERCENT, 1),
    "beta": Label("Beta", Kind.NUMBER),
    "trade_count": Label("Closed trades", Kind.COUNT),
    "open_trade_count": Label("Open trades", Kind.COUNT),
    "open_profit": Label("Profit of open trades", Kind.MONEY),
    "win_rate": Label("Win rate", Kind.SHARE, 1),
    "profit_factor": Label("Profit factor", Kind.NUMBER, 1),
    "expectancy": Label("Mean profit of a trade", Kind.MONEY, 1),
    "average_win": Label("Average win", Kind.MONEY, 1),
    "average_loss": Label("Average loss", Kind.MONEY, 1),
    "largest_win": Label("Largest win", Kind.MONEY),
    "largest_loss": Label("Largest loss", Kind.MONEY, 1),
    "average_trade_duration": Label("Average time in a trade", Kind.DURATION),
    "sqn": Label("SQN", Kind.NUMBER, 1),
    "kelly": Label("Kelly fraction", Kind.PERCENT),
    "time_in_market": Label("Time in market", Kind.SHARE),
    "exposure_mean": Label("Mean exposure", Kind.SHARE),
    "turnover": Label("Turnover, times equity", Kind.NUMBER),
    "total_fees": Label("Fees paid", Kind.MONEY),
    "total_slippage": Label("Slippage paid", Kind.MONEY),
    "total_funding": Label("Funding paid", Kind.MONEY),
}
"""In the order they are shown in."""


def label_of(name: str) -> Label:
    """Return the label of a statistic; one that is not known is called by its name."""
    return STATISTICS.get(name) or Label(spaced(name), Kind.NUMBER)


def in_order(names: set[str]) -> list[str]:
    """Return names of statistics as they are shown: the known ones first."""
    return [name for name in STATISTICS if name in names] + sorted(names - STATISTICS.keys())


def number(value: float | None, kind: Kind) -> str:
    """Write a number; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return DASH
    match kind:
        case Kind.PERCENT:
            return f"{value:+,.2%}".replace("-", "−")
        case Kind.SHARE:
            return f"{value:,.2%}".replace("-", "−")
        case Kind.COUNT:
            return f"{value:,.0f}"
        case Kind.DURATION:
            return _duration(value)
        case Kind.NUMBER | Kind.MONEY:
            return f"{value:,.2f}".replace("-", "−")


def text(value: object) -> str:
    """Write anything, of bounded length; a dash for nothing."""
    if value is None or value == "":
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.6g}".replace("-", "−")
    if isinstance(value, Mapping):
        return shortened(", ".join(f"{spaced(str(name))} {text(one)}" for name, one in value.items()))
    return shortened(str(value))


def shortened(value: str) -> str:
    """Return a text of bounded length."""
    return value if len(value) <= _LONGEST else f"{value[:_LONGEST]}…"


def spaced(name: str) -> str:
    """Return an identifier as words."""
    return shortened(name.replace("_", " "))


def day(time_ms: int) -> str:
    """Return the day of an instant in UTC, for example 2025-01-31."""
    return (dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(milliseconds=time_ms)).strftime("%Y-%m-%d")


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    days, hours, rest = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days:
        return f"{days:,} d {hours} h" if hours and days < 100 else f"{days:,} d"
    return f"{hours} h {rest} min" if hours else f"{rest} min"
