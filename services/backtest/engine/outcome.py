"""What a run produced, and the state with which it goes on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from klinecast.types import ExecutionModel, FillTiming, FloatColumn, IntrabarPolicy
from services.backtest.engine.records import STATE_DTYPE, Record, copied

ENGINE_VERSION = "1"
"""Moved by every change that may change a number; states of another version are refused."""


_NAMES = STATE_DTYPE.names or ()


@dataclass(frozen=True, slots=True)
class EngineState:
    """A run between two klines, opaque to callers: pass it to the next simulate, or keep its bytes."""

    records: bytes = field(repr=False)
    """Three records: of the run, and of the runs under STOP_FIRST and TARGET_FIRST for the bounds."""

    @classmethod
    def of(cls, main: Record, stop_first: Record | None, target_first: Record | None) -> Self:
        """Copy the records of a run; None = the same as the run."""
        shared = _between_calls(main)
        bounds = [shared if one is None else _between_calls(one) for one in (stop_first, target_first)]
        return cls(b"".join([shared, *bounds]))

    def to_bytes(self) -> bytes:
        """Return the state as bytes that from_bytes reads."""
        return f"{ENGINE_VERSION}\n".encode() + self.records

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read a state; ValueError when another engine version wrote it."""
        version, _, records = data.partition(b"\n")
        if version != ENGINE_VERSION.encode() or len(records) != 3 * STATE_DTYPE.itemsize:
            raise ValueError("the state was written by another version of the engine")
        return cls(records)

    def record(self, policy: IntrabarPolicy | None = None) -> Record:
        """Return a copy of the record of the run (None) or of a bound."""
        order = {None: 0, IntrabarPolicy.STOP_FIRST: 1, IntrabarPolicy.TARGET_FIRST: 2}[policy]
        size = STATE_DTYPE.itemsize
        return np.frombuffer(bytearray(self.records[order * size : (order + 1) * size]), STATE_DTYPE)

    @property
    def next_index(self) -> int:
        """Klines done since the start of the run."""
        return int(self.record()["next_index"][0])

    @property
    def last_open_ms(self) -> int:
        """open_time of the last kline done."""
        return int(self.record()["last_open_ms"][0])

    @property
    def span_ms(self) -> int:
        """Span of a kline, 0 where unknown."""
        return int(self.record()["span_ms"][0])

    @property
    def end_ms(self) -> int:
        """End of the last kline done."""
        return self.last_open_ms + self.span_ms


def _between_calls(record: Record) -> bytes:
    """Return a record without the counters of one call."""
    copy = copied(record)
    for name in ("fill_count", "trade_count", "funding_at"):
        copy[name] = 0
    return copy.tobytes()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run produced; indices count from the start of the run, columns hold the klines of this call."""

    equity: FloatColumn
    """cash + quantity * close at each kline, quote units."""
    fills: Record
    """FILL_DTYPE rows in order."""
    trades: Record
    """TRADE_DTYPE rows in order of exit; the open trade is the last row."""
    cash: float
    """Free money after the last kline, quote units."""
    quantity: float
    """Position after the last kline, base units, signed."""
    entry_price: float | None
    """Average cost of the position, quote units; None when flat."""
    pending_target: float | None
    """The last kline's decision where it was made too late to fill (NEXT_OPEN); None where there was none."""
    ambiguous_klines: int
    """Klines in which stop and target were both touched and nothing but the policy could tell which came first."""
    resolved_klines: int
    """Klines in which finer klines told."""
    ruined_at: int | None
    """Index of the kline at which equity was gone."""
    bounds: tuple[float, float]
    """Total return under STOP_FIRST and under TARGET_FIRST."""
    state: EngineState
    """Where the run stands, before close_at_end."""
    initial_cash: float
    """Start money of the run, quote units."""
    first_index: int
    """Index of the first kline of this call."""
    first_quantity: float
    """Position before that kline, base units, signed."""
    total_fees: float
    """Since the start of the run, quote units."""
    total_slippage: float
    """Sum of quantity * |price - reference| since the start of the run, quote units."""
    total_funding: float
    """Paid (positive) or received since the start of the run, quote units."""
    missing_funding: int
    """Expected funding stamps without a record, taken as 0."""


@dataclass(slots=True)
class Run:
    """One pass of the kernel under one intrabar policy: its state and what it logged."""

    state: Record
    """One STATE_DTYPE row."""
    rules: Record
    """One RULES_DTYPE row."""
    equity: FloatColumn
    """As in Outcome."""
    fills: Record
    """FILL_DTYPE rows; the state counts those in use."""
    trades: Record
    """TRADE_DTYPE rows; the state counts those in use."""


def read_outcome(
    run: Run, state: EngineState, *, bounds: tuple[float, float], execution: ExecutionModel, first_quantity: float
) -> Outcome:
    """Read the outcome of a finished run that began with a position of first_quantity."""
    row = dict(zip(_NAMES, run.state[0].item(), strict=True))
    quantity, ruined_at, pending = row["quantity"], row["ruined_at"], row["pending_target"]
    too_late = execution.fill_timing is FillTiming.NEXT_OPEN and ruined_at < 0
    return Outcome(
        equity=run.equity,
        fills=run.fills[: row["fill_count"]],
        trades=run.trades[: row["trade_count"]],
        cash=row["cash"],
        quantity=quantity,
        entry_price=row["entry"] if quantity else None,
        pending_target=pending if too_late and not math.isnan(pending) else None,
        ambiguous_klines=row["ambiguous"],
        resolved_klines=row["resolved"],
        ruined_at=ruined_at if ruined_at >= 0 else None,
        bounds=bounds,
        state=state,
        initial_cash=row["initial_cash"],
        first_index=row["next_index"] - len(run.equity),
        first_quantity=first_quantity,
        total_fees=row["total_fees"],
        total_slippage=row["total_slippage"],
        total_funding=row["total_funding"],
        missing_funding=row["missing_funding"],
    )
