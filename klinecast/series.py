"""Identity of a series and what may stand in it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from klinecast.interval import Interval
from klinecast.types import MarketType

VENUE_PATTERN = re.compile(r"[A-Z0-9_-]{1,32}", re.ASCII)
SYMBOL_PATTERN = re.compile(r"[A-Za-z0-9._:/-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class SeriesKey:
    """All klines of (venue, market_type, symbol, interval)."""

    venue: str
    """Where it trades, for example BINANCE."""
    market_type: MarketType
    """Kind of market."""
    symbol: str
    """The venue's own spelling, for example BTCUSDT."""
    interval: Interval
    """Span of each kline."""

    def __str__(self) -> str:
        return f"{self.venue} {self.market_type.value} {self.symbol} {self.interval.value}"
