"""The types a backtest is described with: columns, signals, the execution model and the statistics convention.

Knows numpy only. Every rule behind an execution model field is explained in docs/execution.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import IntEnum, StrEnum
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from klinecast._checks import checked_number, coerce_enum, plain_dict, require_known, require_one_length

FloatColumn = NDArray[np.float64]
TimeColumn = NDArray[np.int64]


class MarketType(StrEnum):
    """Kind of market a series belongs to."""

    SPOT = "SPOT"
    LINEAR_PERPETUAL = "LINEAR_PERPETUAL"
    INVERSE_PERPETUAL = "INVERSE_PERPETUAL"


class FillTiming(StrEnum):
    """When the decision of kline t fills: at the next kline's open, or at its own close."""

    NEXT_OPEN = "NEXT_OPEN"
    THIS_CLOSE = "THIS_CLOSE"


class ProtectFrom(StrEnum):
    """From which kline protective orders act after an entry at an open."""

    ENTRY_KLINE = "ENTRY_KLINE"
    NEXT_KLINE = "NEXT_KLINE"


class IntrabarPolicy(StrEnum):
    """Which order fills when stop and target are both touched inside one kline."""

    STOP_FIRST = "STOP_FIRST"
    TARGET_FIRST = "TARGET_FIRST"
    NEAREST_FIRST = "NEAREST_FIRST"


class GapPolicy(StrEnum):
    """Where an order fills when a kline opens beyond its level."""

    AT_OPEN = "AT_OPEN"
    AT_LEVEL = "AT_LEVEL"


class TouchRule(StrEnum):
    """Whether reaching a level is enough (INCLUSIVE) or trading through it is needed (STRICT)."""

    INCLUSIVE = "INCLUSIVE"
    STRICT = "STRICT"


class TargetUnit(StrEnum):
    """Unit of a strategy's target: position value / equity, base units, or quote units."""

    EXPOSURE = "EXPOSURE"
    QUANTITY = "QUANTITY"
    NOTIONAL = "NOTIONAL"


class Rebalance(StrEnum):
    """Whether orders are made when the target changes, or at every fill time."""

    ON_CHANGE = "ON_CHANGE"
    EVERY_KLINE = "EVERY_KLINE"


class Reentry(StrEnum):
    """What ends the flat time after a protective exit: a differing decision, or the next decision."""

    AFTER_CHANGE = "AFTER_CHANGE"
    NEXT_DECISION = "NEXT_DECISION"


class MissingFunding(StrEnum):
    """What an expected funding stamp without a record means."""

    FAIL = "FAIL"
    ZERO = "ZERO"


class MarginMode(StrEnum):
    """Whether a position is backed by its own margin or by all cash."""

    ISOLATED = "ISOLATED"
    CROSS = "CROSS"


class Sampling(StrEnum):
    """How equity is sampled for ratios: at each 00:00 UTC, or at each kline."""

    DAILY = "DAILY"
    PER_KLINE = "PER_KLINE"


class Formula(StrEnum):
    """Whose formulas the ratios use: ours, backtesting.py's, or freqtrade's."""

    STANDARD = "STANDARD"
    GEOMETRIC = "GEOMETRIC"
    PER_TRADE = "PER_TRADE"


class Account(StrEnum):
    """Whose money several series trade with: an equal share each, or all from one account."""

    SEPARATE = "SEPARATE"
    SHARED = "SHARED"


class FillReason(IntEnum):
    """Why a fill happened."""

    SIGNAL = 1
    STOP_LOSS = 2
    TAKE_PROFIT = 3
    TRAILING_STOP = 4
    LIQUIDATION = 5
    END = 6


FILL_DTYPE = np.dtype(
    [("kline_index", "i8"), ("side", "i8"), ("quantity", "f8"), ("price", "f8"), ("fee", "f8"), ("reason", "i8")]
)
"""One fill: side +1 buy, -1 sell; quantity in base units; price after slippage; fee in quote units; a FillReason."""

TRADE_DTYPE = np.dtype(
    [
        ("entry_index", "i8"),
        ("exit_index", "i8"),
        ("side", "i8"),
        ("quantity", "f8"),
        ("entry_price", "f8"),
        ("exit_price", "f8"),
        ("profit", "f8"),
        ("fees", "f8"),
        ("funding", "f8"),
        ("exit_reason", "i8"),
    ]
)
"""One trade: side +1 long, -1 short; profit net of costs, quote units; exit_index -1, exit_reason 0 while open."""


def as_column(values: ArrayLike, dtype: DTypeLike = np.float64) -> Any:
    """Return values as an array kernels take: of one piece, and writable, which what pandas or Arrow lend is not."""
    column = np.ascontiguousarray(values, dtype=dtype)
    return column if column.flags.writeable else column.copy()


@dataclass(frozen=True, slots=True)
class KlineColumns:
    """Klines as columns of one length, oldest first."""

    open_time_ms: TimeColumn
    """Start instants, epoch milliseconds UTC, strictly ascending."""
    open: FloatColumn
    """First prices, quote units."""
    high: FloatColumn
    """Highest prices, quote units."""
    low: FloatColumn
    """Lowest prices, quote units."""
    close: FloatColumn
    """Last prices, quote units."""
    volume: FloatColumn
    """Traded base units."""
    indicators: Mapping[str, FloatColumn] = field(default_factory=dict)
    """What the strategy asked for besides, by column name, as long as the klines."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "open_time_ms", as_column(self.open_time_ms, np.int64))
        for name in ("open", "high", "low", "close", "volume"):
            object.__setattr__(self, name, as_column(getattr(self, name)))
        own = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "indicators"}
        require_one_length(own | {f"indicators[{name!r}]": values for name, values in self.indicators.items()})

    def __len__(self) -> int:
        return len(self.open_time_ms)

    def copy(self) -> KlineColumns:
        """Return klines that share no memory with these."""
        return KlineColumns(
            self.open_time_ms.copy(),
            self.open.copy(),
            self.high.copy(),
            self.low.copy(),
            self.close.copy(),
            self.volume.copy(),
            {name: values.copy() for name, values in self.indicators.items()},
        )

    def slice(self, start: int, stop: int | None = None) -> KlineColumns:
        """Return klines [start, stop) as views."""
        cut = slice(start, stop)
        return KlineColumns(
            self.open_time_ms[cut],
            self.open[cut],
            self.high[cut],
            self.low[cut],
            self.close[cut],
            self.volume[cut],
            {name: values[cut] for name, values in self.indicators.items()},
        )


@dataclass(frozen=True, slots=True)
class FundingColumns:
    """Funding records of a perpetual, oldest first."""

    time_ms: TimeColumn
    """When funding is due, epoch milliseconds UTC, strictly ascending."""
    rate: FloatColumn
    """Share of notional that longs pay to shorts."""
    mark_price: FloatColumn
    """Price the notional is taken at, quote units; NaN = the kline's open."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "time_ms", as_column(self.time_ms, np.int64))
        for name in ("rate", "mark_price"):
            object.__setattr__(self, name, as_column(getattr(self, name)))
        require_one_length({field.name: getattr(self, field.name) for field in fields(self)})

    def __len__(self) -> int:
        return len(self.time_ms)


@dataclass(frozen=True, slots=True)
class Signals:
    """What a strategy decides at the close of each kline; every array is as long as the klines."""

    target_exposure: FloatColumn
    """Wanted position in the execution model's target_unit, signed; NaN = no decision."""
    stop_loss: FloatColumn | None = None
    """Distance as a fraction of the entry price, above 0; NaN = none; None = the execution model's."""
    take_profit: FloatColumn | None = None
    """Distance as a fraction of the entry price, above 0; NaN = none; None = the execution model's."""
    trailing_stop: FloatColumn | None = None
    """Distance as a fraction of the best price, above 0; NaN = none; None = the execution model's."""
    limit_price: FloatColumn | None = None
    """Price at which an entry rests as a limit order, quote units; NaN = a market order."""
    stop_price: FloatColumn | None = None
    """Price at which an entry rests as a stop order, quote units; NaN = a market order."""

    def __post_init__(self) -> None:
        for one in fields(self):
            column = getattr(self, one.name)
            if column is not None:
                object.__setattr__(self, one.name, as_column(column))

    def __len__(self) -> int:
        return len(self.target_exposure)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionModel:
    """How decisions become fills. Strings are accepted for enums; ValueError names the bad field."""

    market_type: MarketType = MarketType.SPOT
    """SPOT or LINEAR_PERPETUAL."""
    fill_timing: FillTiming = FillTiming.NEXT_OPEN
    """When a decision fills."""
    taker_fee_bps: float = 10.0
    """Fee of market orders, basis points of notional, -1,000..10,000; below 0 is a rebate."""
    maker_fee_bps: float | None = None
    """Fee of resting limit orders, basis points of notional, -1,000..10,000; None = taker_fee_bps."""
    fixed_fee: float = 0.0
    """Fee per fill, quote units; below 0 is a rebate."""
    slippage_bps: float = 0.0
    """Price worsening of market orders, basis points, 0..10,000."""
    target_unit: TargetUnit = TargetUnit.EXPOSURE
    """Unit of targets."""
    max_leverage: float = 1.0
    """Largest |position value| / equity, above 0; more than 1 needs a perpetual."""
    allow_short: bool | None = None
    """Whether negative targets are allowed; None = on perpetuals only."""
    step_size: float = 0.0
    """Quantities are multiples of it, base units; 0 = any quantity."""
    min_notional: float = 0.0
    """Smaller orders are skipped, quote units; 0 = none are."""
    rebalance: Rebalance = Rebalance.ON_CHANGE
    """When orders are made."""
    rebalance_tolerance: float = 0.0
    """Share of equity a position may be off its target under EVERY_KLINE, 0 or more."""
    reentry: Reentry = Reentry.AFTER_CHANGE
    """What ends the flat time after a protective exit."""
    stop_loss: float | None = None
    """Distance as a fraction of the entry price, above 0; None = none."""
    take_profit: float | None = None
    """Distance as a fraction of the entry price, above 0; None = none."""
    trailing_stop: float | None = None
    """Distance as a fraction of the best price, above 0; None = none."""
    protect_from: ProtectFrom = ProtectFrom.ENTRY_KLINE
    """From which kline protective orders act after an entry at an open."""
    intrabar_policy: IntrabarPolicy = IntrabarPolicy.STOP_FIRST
    """Which order fills when stop and target are both touched."""
    gap_policy: GapPolicy = GapPolicy.AT_OPEN
    """Where an order fills when a kline opens beyond its level."""
    touch_rule: TouchRule = TouchRule.INCLUSIVE
    """What counts as touching a level."""
    order_klines: int = 1
    """Klines a resting entry rests, 1 or more."""
    missing_funding: MissingFunding = MissingFunding.FAIL
    """Perpetuals: what a missing funding record means."""
    funding_interval_hours: float = 8.0
    """Perpetuals: hours between expected funding stamps, above 0."""
    maintenance_margin_rate: float = 0.005
    """Perpetuals: maintenance margin / notional, 0..1 exclusive; max_leverage times it stays below 1."""
    margin_mode: MarginMode = MarginMode.ISOLATED
    """Perpetuals: what backs a position."""
    liquidation_fee_bps: float = 100.0
    """Perpetuals: fee of a liquidation, basis points of notional, 0..10,000."""
    close_at_end: bool = False
    """Whether an open position is closed at the last close."""

    def __post_init__(self) -> None:
        for name, kind in _EXECUTION_ENUMS.items():
            object.__setattr__(self, name, coerce_enum(kind, getattr(self, name), name))
        for name, (low, high) in _EXECUTION_BOUNDS.items():
            if getattr(self, name) is not None:
                object.__setattr__(self, name, checked_number(getattr(self, name), name, low, high))
        self._require_sense()

    def _require_sense(self) -> None:
        for name in _EXECUTION_POSITIVE:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name}: {value} is not above 0")
        if self.order_klines != int(self.order_klines):
            raise ValueError(f"order_klines: {self.order_klines} is not a whole number")
        object.__setattr__(self, "order_klines", int(self.order_klines))
        if self.allow_short is not None and not isinstance(self.allow_short, bool):
            raise ValueError(f"allow_short: {self.allow_short!r} is not a bool")
        if not isinstance(self.close_at_end, bool):
            raise ValueError(f"close_at_end: {self.close_at_end!r} is not a bool")
        if self.market_type is MarketType.SPOT and self.max_leverage > 1:
            raise ValueError(f"max_leverage: {self.max_leverage} needs a perpetual; spot allows up to 1")
        if self.market_type is not MarketType.SPOT and self.max_leverage * self.maintenance_margin_rate >= 1:
            raise ValueError(f"max_leverage: {self.max_leverage} reaches 1 / maintenance_margin_rate")

    @property
    def effective_maker_fee_bps(self) -> float:
        """Fee of resting limit orders, basis points, with the default applied."""
        return self.taker_fee_bps if self.maker_fee_bps is None else self.maker_fee_bps

    @property
    def shorts_allowed(self) -> bool:
        """Whether negative targets are allowed, with the default applied."""
        return self.market_type is not MarketType.SPOT if self.allow_short is None else self.allow_short

    def to_dict(self) -> dict[str, object]:
        """Return every field by name; enums as strings."""
        return plain_dict(asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Self:
        """Build one from fields by name; an unknown field raises ValueError with the nearest name."""
        require_known(values, [field.name for field in fields(cls)])
        return cls(**values)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class StatisticsConvention:
    """How statistics are counted, since the field has several answers to each."""

    sampling: Sampling = Sampling.DAILY
    """How equity is sampled for ratios."""
    ddof: int = 1
    """Degrees of freedom taken off in standard deviations, 0 or 1."""
    days_per_year: float = 365.0
    """Days a year, above 0; 252 for markets with trading days."""
    risk_free_rate: float = 0.0
    """Risk-free rate a year, as a fraction, above -1."""
    formula: Formula = Formula.STANDARD
    """Whose formulas the ratios use."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sampling", coerce_enum(Sampling, self.sampling, "sampling"))
        object.__setattr__(self, "formula", coerce_enum(Formula, self.formula, "formula"))
        if self.ddof not in (0, 1):
            raise ValueError(f"ddof: {self.ddof} is not 0 or 1")
        object.__setattr__(self, "ddof", int(self.ddof))
        checked_number(self.days_per_year, "days_per_year", 0.0, 366.0)
        checked_number(self.risk_free_rate, "risk_free_rate", -1.0, 100.0)
        if self.days_per_year <= 0 or self.risk_free_rate <= -1:
            raise ValueError("days_per_year and risk_free_rate: must be above 0 and above -1")

    def to_dict(self) -> dict[str, object]:
        """Return every field by name; enums as strings."""
        return plain_dict(asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Self:
        """Build one from fields by name; an unknown field raises ValueError with the nearest name."""
        require_known(values, [field.name for field in fields(cls)])
        return cls(**values)  # type: ignore[arg-type]


_EXECUTION_ENUMS: dict[str, type[StrEnum]] = {
    "market_type": MarketType,
    "fill_timing": FillTiming,
    "target_unit": TargetUnit,
    "rebalance": Rebalance,
    "reentry": Reentry,
    "protect_from": ProtectFrom,
    "intrabar_policy": IntrabarPolicy,
    "gap_policy": GapPolicy,
    "touch_rule": TouchRule,
    "missing_funding": MissingFunding,
    "margin_mode": MarginMode,
}
_EXECUTION_BOUNDS: dict[str, tuple[float, float]] = {
    "taker_fee_bps": (-1_000.0, 10_000.0),
    "maker_fee_bps": (-1_000.0, 10_000.0),
    "fixed_fee": (-math.inf, math.inf),
    "slippage_bps": (0.0, 10_000.0),
    "max_leverage": (0.0, math.inf),
    "step_size": (0.0, math.inf),
    "min_notional": (0.0, math.inf),
    "rebalance_tolerance": (0.0, math.inf),
    "stop_loss": (0.0, math.inf),
    "take_profit": (0.0, math.inf),
    "trailing_stop": (0.0, math.inf),
    "order_klines": (1, 1_000_000_000),
    "funding_interval_hours": (0.0, math.inf),
    "maintenance_margin_rate": (0.0, 0.999),
    "liquidation_fee_bps": (0.0, 10_000.0),
}
_EXECUTION_POSITIVE = ("max_leverage", "stop_loss", "take_profit", "trailing_stop", "funding_interval_hours")
