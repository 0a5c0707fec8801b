"""When a stored result is what a request would compute: same code, same config, klines nobody rewrote since."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Self

from klinecast.backtest_config import BacktestConfig, ParamValue
from klinecast.interval import Interval
from klinecast.models import RangeSummary
from klinecast.series import SeriesKey
from klinecast.types import MarketType

_ABOUT_THE_REQUEST = ("priority", "result_ttl_s", "labels", "deadline_s", "allow_reuse")
"""Fields of a config that change nothing of its result."""


@dataclasses.dataclass(frozen=True, slots=True)
class Read:
    """A range that a backtest read, and what was known of it then."""

    series: SeriesKey
    start_ms: int
    end_ms: int
    source_interval: Interval
    revision: int
    kline_count: int | None
    """None where it was not counted: then only rewrites tell."""
    indicators: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    """Revision and count before the end of the stored indicator series it read."""
    absent: tuple[str, ...] = ()
    """Stored indicator series it looked for in vain."""

    @property
    def names(self) -> tuple[str, ...]:
        """Stored indicator series to ask about."""
        return (*self.indicators, *self.absent)

    def is_unchanged(self, now: RangeSummary) -> bool:
        """Tell whether the same would be read now."""
        return (
            now.source_interval is self.source_interval
            and now.rewrite_revision <= self.revision
            and self.kline_count in (None, now.kline_count)
            and set(now.indicators) == set(self.indicators)
            and all(
                now.indicators[name].rewrite_revision <= revision and now.indicators[name].value_count == count
                for name, (revision, count) in self.indicators.items()
            )
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as it is stored."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Read what was stored."""
        series = stored["series"]
        key = SeriesKey(
            series["venue"], MarketType(series["market_type"]), series["symbol"], Interval(series["interval"])
        )
        return cls(
            key,
            stored["start_ms"],
            stored["end_ms"],
            Interval(stored["source_interval"]),
            stored["revision"],
            stored["kline_count"],
            {name: (revision, count) for name, (revision, count) in stored["indicators"].items()},
            tuple(stored["absent"]),
        )


def reuse_key(config: BacktestConfig, params: Mapping[str, ParamValue], mode: str, code: str) -> bytes:
    """Hash what decides the numbers of a result, klines apart; params with their defaults filled in."""
    return _hash(_canonical(config, params, mode, code))


def continue_key(config: BacktestConfig, params: Mapping[str, ParamValue], mode: str, code: str) -> bytes:
    """Hash the same without the end: backtests of one such key are the beginnings of each other."""
    return _hash({**_canonical(config, params, mode, code), "end_ms": None})


def _canonical(config: BacktestConfig, params: Mapping[str, ParamValue], mode: str, code: str) -> dict[str, object]:
    fields = {one.name: getattr(config, one.name) for one in dataclasses.fields(config)}
    fields |= {"params": dict(params), "mode": mode, "series": config.all_series, "code": code}
    return {name: value for name, value in fields.items() if name not in _ABOUT_THE_REQUEST}


def _hash(values: Mapping[str, object]) -> bytes:
    text = json.dumps(values, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).digest()


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} in a config")
