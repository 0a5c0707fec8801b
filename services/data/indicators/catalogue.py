"""Which indicators TA-Lib computes, with which params, and how much history each needs. Knows no SQL and no wire.

A value may not depend on where a range begins. Most indicators look at a window, or forget: after 64 lookbacks and
8,192 klines what came before moves no value by more than rounding. The others add up from the first kline on.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import talib
from talib.abstract import Function  # type: ignore[attr-defined]

from klinecast.columns import Column
from klinecast.errors import FieldViolation, InvalidArgument
from klinecast.indicators import Indicator

SUMS = frozenset({"AD", "OBV", "PVT", "WAD"})
"""Sums over all klines since the first: what is computed from a later one differs by a constant."""
_WITHOUT_END = frozenset({"CUMSUM", "NVI", "PVI", "VWAP"})
_OF_POSITIONS = frozenset({"MAXINDEX", "MININDEX", "MINMAXINDEX"})
_OTHER_INPUTS = frozenset({"MAVP"})
_ALL: list[str] = talib.get_functions()  # type: ignore[no-untyped-call]
NAMES = frozenset(_ALL) - _WITHOUT_END - _OF_POSITIONS - _OTHER_INPUTS
MAX_LOOKBACK = 10_000
MOST_OUTPUTS = 4
"""Most columns of one indicator."""
_PROBE = np.linspace(1.0, 2.0, 8)


@dataclass(frozen=True)
class Computation:
    """An indicator that TA-Lib can compute as asked."""

    indicator: Indicator
    params: Mapping[str, int | float]

    @cached_property
    def lookback(self) -> int:
        """Klines before the first value."""
        return int(self._function().lookback)

    @property
    def history(self) -> int:
        """Klines before a range that its values need."""
        return 0 if self.indicator.name in SUMS else 64 * self.lookback + 8_192

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Columns of klines it looks at."""
        names: list[str] = []
        for given in self._function().input_names.values():
            names += [given] if isinstance(given, str) else given
        return tuple(dict.fromkeys(names))

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Names of its columns."""
        label, outputs = self.indicator.column, self._function().output_names
        return (label,) if len(outputs) == 1 else tuple(f"{label}.{output}" for output in outputs)

    def compute(self, klines: Mapping[str, Column]) -> list[Column]:
        """Return a column of doubles for each output, NaN where there is no value yet."""
        lookback = min(self.lookback, len(klines["open_time_ms"]))
        inputs = {name: np.ascontiguousarray(klines[name], dtype=np.float64) for name in self.inputs}
        found = self._function()(inputs)
        outputs = [found] if isinstance(found, np.ndarray) else list(found)
        columns = [np.array(values, dtype=np.float64) for values in outputs]
        for values in columns:
            values[:lookback] = np.nan  # TA-Lib fills integer outputs with zeros there
        return columns

    def _function(self) -> Any:
        function = Function(self.indicator.name)
        if "price" in function.input_names and self.indicator.price != "close":
            function.input_names = {"price": self.indicator.price}
        function.parameters = dict(self.params)
        return function


def prepare(indicators: Sequence[Indicator]) -> list[Computation]:
    """Return the computed ones of the indicators, ready; raise InvalidArgument naming all that is wrong with them."""
    violations: list[FieldViolation] = []
    ready = []
    for at, indicator in enumerate(indicators):
        if not indicator.is_stored:
            problems = _problems(indicator)
            violations += [FieldViolation(f"indicators[{at}].{field}", text) for field, text in problems]
            if not problems:
                ready.append(Computation(indicator, _typed(indicator)))
    if violations:
        unknown = any(one.field.endswith(".name") for one in violations)
        raise InvalidArgument.of(*violations[:50], reason="UNKNOWN_INDICATOR" if unknown else None)
    return ready


def _problems(indicator: Indicator) -> list[tuple[str, str]]:
    name = indicator.name
    if name not in NAMES:
        return [("name", f"{name} {_why_not(name)}")]
    function = Function(name)
    problems = []
    for param, value in indicator.params.items():
        default = function.parameters.get(param)
        if default is None:
            text = f"is not a param of {name}{_did_you_mean(param, function.parameters)}"
            problems.append((f"params.{param}", text))
        elif isinstance(default, int) and not float(value).is_integer():
            problems.append((f"params.{param}", "must be a whole number"))
    if indicator.price != "close" and "price" not in function.input_names:
        problems.append(("price", f"{name} does not look at one price"))
    return problems or _refusals(indicator)


def _refusals(indicator: Indicator) -> list[tuple[str, str]]:
    """Let TA-Lib itself judge the params."""
    try:
        computation = Computation(indicator, _typed(indicator))
        computation.compute(dict.fromkeys(("open_time_ms", *computation.inputs), _PROBE))
    except (Exception, OverflowError) as error:
        bad = "out of TA-Lib's bounds" if "BAD_PARAM" in str(error) else "refused by TA-Lib"
        return [("params", f"{bad}: {dict(indicator.params)}")]
    if computation.lookback > MAX_LOOKBACK:
        return [("params", f"look back {computation.lookback:,} klines; the most is {MAX_LOOKBACK:,}")]
    return []


def _typed(indicator: Indicator) -> dict[str, int | float]:
    defaults = Function(indicator.name).parameters
    return {
        name: int(value) if isinstance(defaults[name], int) else float(value)
        for name, value in indicator.params.items()
    }


def _why_not(name: str) -> str:
    if name in _WITHOUT_END:
        return "depends on every kline since the first and is not computed here"
    if name in _OF_POSITIONS:
        return "tells positions in an array, which a stream does not have"
    if name in _OTHER_INPUTS:
        return "needs other inputs than klines"
    return f"is no indicator{_did_you_mean(name, NAMES)}"


def _did_you_mean(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, sorted(known), n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return "" if len(known) > 12 else f"; it has {', '.join(known) or 'none'}"
