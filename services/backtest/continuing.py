"""Going on from a finished backtest with a longer one: its state, its result, and only the klines after it.

What comes out equals a full run bit for bit: the engine and the strategy go on from their states, what lies before is
taken from the result, and statistics are computed over both.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from dataclasses import dataclass

import numpy as np

from klinecast.backtest_config import BacktestConfig
from klinecast.convert.outcome import Columns, fills_from_columns, trades_from_columns
from klinecast.interval import Interval
from klinecast.strategy import StrategyState
from klinecast.types import KlineColumns
from services.backtest.engine import EngineState, Outcome
from services.backtest.run import MAX_GAPS, Gaps, Loaded


def may_continue(config: BacktestConfig) -> bool:
    """Tell whether a backtest keeps all that a longer one needs, as far as its config says."""
    return (
        config.allow_reuse
        and config.keep_equity
        and config.keep_trades
        and len(config.all_series) == 1
        and config.finer_interval is None
        and not config.execution.close_at_end
    )


@dataclass(frozen=True, slots=True)
class Continuation:
    """Where a finished backtest stands."""

    engine: EngineState
    strategy: StrategyState | None
    """What the strategy handed on; None where it remembers by looking back."""
    first_open: float
    """Open of the first kline traded."""
    seen_from_ms: int
    """open_time of the first kline that the strategy saw."""
    gaps: Gaps
    """In what was read so far."""

    @property
    def last_open_ms(self) -> int:
        """open_time of its last kline."""
        return self.engine.last_open_ms

    def to_bytes(self) -> bytes:
        """Return it as it is stored."""
        state = None if self.strategy is None else _text(np.ascontiguousarray(self.strategy, "<f8").tobytes())
        return json.dumps(
            {
                "engine": _text(self.engine.to_bytes()),
                "strategy": state,
                "first_open": self.first_open.hex(),
                "seen_from_ms": self.seen_from_ms,
                "gaps": dataclasses.astuple(self.gaps),
            }
        ).encode()

    @classmethod
    def from_bytes(cls, stored: bytes) -> Continuation:
        """Read what was stored; ValueError when another version of the engine wrote it."""
        values = json.loads(stored)
        state, (count, missing, first) = values["strategy"], values["gaps"]
        return cls(
            EngineState.from_bytes(base64.b64decode(values["engine"])),
            None if state is None else np.frombuffer(base64.b64decode(state), "<f8").copy(),
            float.fromhex(values["first_open"]),
            values["seen_from_ms"],
            Gaps(count, missing, tuple(tuple(one) for one in first)),
        )


@dataclass(frozen=True, slots=True)
class Start:
    """A finished backtest to go on from."""

    result_id: str
    continuation: Continuation
    equity: Columns
    fills: Columns
    trades: Columns

    def join(self, outcome: Outcome, klines: KlineColumns) -> tuple[Outcome, KlineColumns]:
        """Return the outcome of the whole run, and of its klines as much as statistics look at."""
        trades = trades_from_columns(self.trades)
        whole = dataclasses.replace(
            outcome,
            equity=np.concatenate([self.equity["equity"], outcome.equity]),
            fills=np.concatenate([fills_from_columns(self.fills), outcome.fills]),
            trades=np.concatenate([trades[trades["exit_index"] >= 0], outcome.trades]),
            first_index=0,
            first_quantity=0.0,
        )
        times = np.concatenate([self.equity["open_time_ms"], klines.open_time_ms])
        close = np.concatenate([self.equity["close"], klines.close])
        opens = close.copy()
        opens[0] = self.continuation.first_open
        return whole, KlineColumns(times, opens, close, close, close, np.zeros(len(close)))

    def join_gaps(self, loaded: Loaded, interval: Interval) -> Gaps:
        """Return the gaps in what both read."""
        times = loaded.klines.open_time_ms
        new = times[times > self.continuation.last_open_ms]
        added = Gaps.of_times(np.concatenate([[self.continuation.last_open_ms], new]), interval)
        before = self.continuation.gaps
        first = (*before.first, *added.first)[:MAX_GAPS]
        return Gaps(before.count + added.count, before.missing + added.missing, first)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
