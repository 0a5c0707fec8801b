"""Ratios of periodic returns, one function each.

returns: fractions per period, NaN left out. p: periods a year. risk_free_rate: fraction a year (rf = it / p).
None where the ratio is undefined: fewer than 2 returns, a zero divisor, a deviation below 1e-14. Those that are not a
year's take p as well, and do without it, so that all can be called alike.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike

from klinecast.types import FloatColumn, as_column
from services.backtest.engine import sums

SMALLEST_DEVIATION = 1e-14
TAIL_SHARE = 0.05


class Tail(NamedTuple):
    """The worst 5 % of returns."""

    value_at_risk: float | None
    """5 % quantile."""
    expected_shortfall: float | None
    """Mean of the returns at or below it."""


def sharpe_ratio(returns: ArrayLike, p: float, risk_free_rate: float = 0.0, ddof: int = 1) -> float | None:
    """mean(r - rf) / std(r, ddof) * sqrt(p), a year. Source: Sharpe (1994)."""
    values = _column(returns)
    count, mean, squares = sums.moments(values, risk_free_rate / p)
    deviation = deviation_of(count, squares, ddof)
    return None if deviation is None else defined(mean / deviation * math.sqrt(p))


def sortino_ratio(returns: ArrayLike, p: float, risk_free_rate: float = 0.0) -> float | None:
    """mean(r - rf) / sqrt(mean(min(r - rf, 0)^2)) * sqrt(p), a year. Source: Sortino and Price (1994)."""
    values = _column(returns)
    _, mean, _ = sums.moments(values, risk_free_rate / p)
    downside = downside_deviation(values, risk_free_rate / p)
    return None if downside is None else defined(mean / downside * math.sqrt(p))


def annual_volatility(returns: ArrayLike, p: float, *, ddof: int = 1) -> float | None:
    """std(r, ddof) * sqrt(p), a fraction a year; 0 where returns do not vary."""
    count, _, squares = sums.moments(_column(returns), 0.0)
    return None if count < 2 else defined(math.sqrt(squares / (count - ddof)) * math.sqrt(p))


def omega_ratio(returns: ArrayLike, p: float | None = None, *, threshold: float = 0.0) -> float | None:
    """sum max(r - threshold, 0) / sum max(threshold - r, 0). Source: Keating and Shadwick (2002)."""
    count, gains, losses, _ = sums.gains_losses_downside(_column(returns), threshold)
    return None if losses == 0 or count < 2 else defined(gains / losses)


def tail_risk(returns: ArrayLike) -> Tail:
    """5 % quantile of r (linear between neighbours) and the mean of r at or below it, fractions a period."""
    values = _column(returns)
    quantile, mean = sums.tail(np.sort(values[~np.isnan(values)]), TAIL_SHARE)
    return Tail(defined(quantile), defined(mean))


def value_at_risk_95(returns: ArrayLike, p: float | None = None) -> float | None:
    """5 % quantile of r, linear between neighbours, a fraction a period (negative = a loss)."""
    return tail_risk(returns).value_at_risk


def expected_shortfall_95(returns: ArrayLike, p: float | None = None) -> float | None:
    """Mean of the returns at or below value_at_risk_95, a fraction a period."""
    return tail_risk(returns).expected_shortfall


class Joint(NamedTuple):
    """How returns move with those of a benchmark."""

    mean: float
    """Of the returns, where both are present."""
    benchmark_mean: float
    """Of the benchmark's."""
    covariance: float
    """Of both, ddof 1."""
    variance: float
    """Of the benchmark's, ddof 1."""

    @classmethod
    def of(cls, returns: ArrayLike, benchmark: ArrayLike) -> Self:
        """Sum both; ValueError where they are of two lengths."""
        values, others = _column(returns), _column(benchmark)
        if len(values) != len(others):
            raise ValueError(f"benchmark: {len(others)} returns, others have {len(values)}")
        return cls(*sums.covariance(values, others))

    @property
    def beta(self) -> float | None:
        """covariance / variance."""
        return defined(self.covariance / self.variance) if self.variance > SMALLEST_DEVIATION**2 else None

    def alpha(self, p: float, risk_free_rate: float) -> float | None:
        """(1 + mean(r - rf - beta * (b - rf)))^p - 1."""
        slope, rate = self.beta, risk_free_rate / p
        if slope is None:
            return None
        return power(1.0 + (self.mean - rate - slope * (self.benchmark_mean - rate)), p, less=1.0)


def beta(returns: ArrayLike, benchmark: ArrayLike, p: float | None = None) -> float | None:
    """cov(r, b) / var(b); ValueError where they are of two lengths. Source: Sharpe (1964)."""
    return Joint.of(returns, benchmark).beta


def alpha(returns: ArrayLike, benchmark: ArrayLike, p: float, risk_free_rate: float = 0.0) -> float | None:
    """(1 + mean(r - rf - beta * (b - rf)))^p - 1, a fraction a year. Source: Jensen (1968), compounded."""
    return Joint.of(returns, benchmark).alpha(p, risk_free_rate)


def geometric_annual_return(returns: ArrayLike, p: float) -> float | None:
    """(prod(1 + r))^(p / n) - 1, a fraction a year. Source: backtesting.py, Return (Ann.)."""
    values = _column(returns)
    count = sums.moments(values, 0.0)[0]
    return None if count < 2 else power(sums.compounded(values), p / count, less=1.0)


def geometric_volatility(returns: ArrayLike, p: float, ddof: int = 1) -> float | None:
    """sqrt((var(r) + (1 + g)^2)^p - (1 + g)^(2 p)), g the geometric mean. Source: backtesting.py, Volatility (Ann.)."""
    values = _column(returns)
    count, _, squares = sums.moments(values, 0.0)
    growth = power(sums.compounded(values), 1.0 / count) if count >= 2 else None
    if growth is None:
        return None
    variance = squares / (count - ddof)
    upper, lower = power(variance + growth**2, p), power(growth, 2 * p)
    return None if upper is None or lower is None else defined(math.sqrt(max(upper - lower, 0.0)))


def geometric_sharpe(returns: ArrayLike, p: float, risk_free_rate: float = 0.0, ddof: int = 1) -> float | None:
    """(annual return - risk-free rate) / annual volatility, both geometric. Source: backtesting.py."""
    yearly, volatility = geometric_annual_return(returns, p), geometric_volatility(returns, p, ddof)
    if yearly is None or volatility is None or volatility < SMALLEST_DEVIATION:
        return None
    return defined((yearly - risk_free_rate) / volatility)


def geometric_sortino(returns: ArrayLike, p: float, risk_free_rate: float = 0.0) -> float | None:
    """(annual return - risk-free rate) / (sqrt(mean(min(r, 0)^2)) * sqrt(p)). Source: backtesting.py."""
    yearly, downside = geometric_annual_return(returns, p), downside_deviation(_column(returns), 0.0)
    if yearly is None or downside is None:
        return None
    return defined((yearly - risk_free_rate) / (downside * math.sqrt(p)))


def standard_deviation(values: FloatColumn, ddof: int) -> float | None:
    """Return std(values, ddof); None for fewer than 2 values or below 1e-14."""
    count, _, squares = sums.moments(values, 0.0)
    return deviation_of(count, squares, ddof)


def deviation_of(count: float, squares: float, ddof: int) -> float | None:
    """Return sqrt(squares / (count - ddof)); None for fewer than 2 values or below 1e-14."""
    if count < 2:
        return None
    deviation = math.sqrt(squares / (count - ddof))
    return deviation if deviation >= SMALLEST_DEVIATION else None


def downside_deviation(values: FloatColumn, threshold: float) -> float | None:
    """Return sqrt(mean(min(values - threshold, 0)^2)); None for fewer than 2 values or below 1e-14."""
    count, _, _, squares = sums.gains_losses_downside(values, threshold)
    if count < 2:
        return None
    deviation = math.sqrt(squares / count)
    return deviation if deviation >= SMALLEST_DEVIATION else None


def power(base: float, exponent: float, *, less: float = 0.0) -> float | None:
    """Return base^exponent - less; None where it is not a finite real number."""
    try:
        return defined(math.pow(base, exponent) - less)
    except (OverflowError, ValueError):
        return None


def defined(value: float) -> float | None:
    """Return the value, None where it is not finite."""
    return float(value) if math.isfinite(value) else None


def _column(values: ArrayLike) -> FloatColumn:
    column: FloatColumn = as_column(values)
    return column
