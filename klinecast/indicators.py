"""What an indicator is asked for by: TA-Lib's name in upper case, or the name of a stored series in lower case."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from klinecast.types import MarketType

COMPUTED_PATTERN = re.compile(r"[A-Z][A-Z0-9_]{0,63}", re.ASCII)
STORED_PATTERN = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)
LABEL_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
PRICES = ("open", "high", "low", "close", "volume")


@dataclass(frozen=True, slots=True)
class Indicator:
    """One indicator, for example Indicator("EMA", {"timeperiod": 20}) or Indicator("funding_rate")."""

    name: str
    """TA-Lib's name in upper case, or that of a stored indicator series in lower case."""
    params: Mapping[str, float] = field(default_factory=dict)
    """TA-Lib's params by TA-Lib's names; those left out have TA-Lib's defaults."""
    label: str | None = None
    """Name of the column; the name in lower case when None. Several outputs: label, a dot, TA-Lib's output name."""
    price: str = "close"
    """Column an indicator of one price looks at."""

    @property
    def is_stored(self) -> bool:
        """Whether it is a stored series."""
        return bool(STORED_PATTERN.fullmatch(self.name))

    @property
    def column(self) -> str:
        """Its label, default filled in."""
        return self.label or self.name.lower()


@dataclass(frozen=True, slots=True, order=True)
class IndicatorKey:
    """Identity of a stored indicator series."""

    venue: str
    market_type: MarketType
    symbol: str
    name: str
    """For example funding_rate: a-z 0-9 _, a letter first."""

    def __str__(self) -> str:
        return f"{self.venue} {self.market_type.value} {self.symbol} {self.name}"
