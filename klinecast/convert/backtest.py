"""Backtest configs: protobuf <-> types, with every bound of the contract checked here."""

from __future__ import annotations

import math
import re

from google.protobuf import duration_pb2

from klinecast.api.backtest.v1 import backtest_pb2
from klinecast.backtest_config import BacktestConfig
from klinecast.convert.execution import (
    convention_from_proto,
    convention_to_proto,
    execution_from_proto,
    execution_to_proto,
)
from klinecast.convert.market import (
    INTERVAL_FROM_PROTO,
    INTERVAL_TO_PROTO,
    series_from_proto,
    series_to_proto,
    time_range_from_proto,
    timestamp_to_proto,
)
from klinecast.convert.params import params_from_proto
from klinecast.convert.violations import Violations
from klinecast.interval import divides
from klinecast.series import SeriesKey
from klinecast.types import Account

MAX_WARMUP_KLINES = 100_000
MAX_DEADLINE_S = 86_400.0
MAX_TTL_S = 10 * 366 * 86_400.0
MAX_LABELS = 32
MAX_SERIES = 100
_LABEL_KEY = re.compile(r"[a-zA-Z0-9_./-]{1,63}", re.ASCII)
_MODES = {
    None: backtest_pb2.STRATEGY_MODE_UNSPECIFIED,
    "long_only": backtest_pb2.STRATEGY_MODE_LONG_ONLY,
    "long_short": backtest_pb2.STRATEGY_MODE_LONG_SHORT,
}
_MODE_NAMES = {number: name for name, number in _MODES.items()}
_ACCOUNTS = {
    Account.SEPARATE: backtest_pb2.ACCOUNT_SEPARATE,
    Account.SHARED: backtest_pb2.ACCOUNT_SHARED,
}
_ACCOUNT_NAMES = {number: account for account, number in _ACCOUNTS.items()}
_REUSE = (backtest_pb2.REUSE_UNSPECIFIED, backtest_pb2.REUSE_ALLOW, backtest_pb2.REUSE_NEVER)


def config_to_proto(config: BacktestConfig) -> backtest_pb2.BacktestConfig:
    """Convert a config, defaults filled in."""
    proto = backtest_pb2.BacktestConfig(
        strategy=config.strategy,
        mode=_MODES[config.mode],
        series=map(series_to_proto, config.all_series),
        start_time=timestamp_to_proto(config.start_ms),
        end_time=timestamp_to_proto(config.end_ms),
        warmup_klines=config.warmup_klines,
        initial_cash=config.initial_cash,
        execution=execution_to_proto(config.execution),
        statistics=convention_to_proto(config.statistics),
        priority=config.priority,
        labels=dict(config.labels),
        keep_equity=config.keep_equity,
        keep_trades=config.keep_trades,
        deadline=_duration_to_proto(config.deadline_s),
        reuse=backtest_pb2.REUSE_ALLOW if config.allow_reuse else backtest_pb2.REUSE_NEVER,
        account=_ACCOUNTS[config.account],
        finer_interval=INTERVAL_TO_PROTO[config.finer_interval] if config.finer_interval else 0,  # type: ignore[arg-type]
    )
    proto.params.update(dict(config.params))
    if config.result_ttl_s is not None:
        proto.result_ttl.CopyFrom(_duration_to_proto(config.result_ttl_s))
    return proto


def config_from_proto(
    proto: backtest_pb2.BacktestConfig, violations: Violations, *, field: str = "config"
) -> BacktestConfig | None:
    """Convert a config, or note every field that is wrong and return None."""
    found = Violations()
    start_ms, end_ms = time_range_from_proto(proto, found, prefix=f"{field}.")
    found.check(1 <= len(proto.strategy) <= 128, f"{field}.strategy", "is required, up to 128 characters")
    series = _series_from_proto(proto, field, found)
    market_type = series[0].market_type.value if series else "SPOT"
    execution = execution_from_proto(proto.execution, f"{field}.execution", found, market_type=market_type)
    statistics = convention_from_proto(proto.statistics, f"{field}.statistics", found)
    params = params_from_proto(proto.params, f"{field}.params", found)
    _check_numbers(proto, field, found)
    _check_finer(proto, series, field, found)
    _check_labels(proto, field, found)
    ttl_s = _duration_from_proto(proto, "result_ttl", field, found, MAX_TTL_S, least=1.0)
    deadline_s = _duration_from_proto(proto, "deadline", field, found, MAX_DEADLINE_S)
    if found or not series or execution is None or statistics is None:
        for one in found.found:
            violations.add(one.field, one.description)
        return None
    return BacktestConfig(
        strategy=proto.strategy,
        series=series[0] if len(series) == 1 else series,
        start_ms=start_ms,
        end_ms=end_ms,
        params=params,
        mode=_MODE_NAMES[proto.mode],
        warmup_klines=proto.warmup_klines,
        initial_cash=proto.initial_cash if proto.HasField("initial_cash") else 10_000.0,
        execution=execution,
        statistics=statistics,
        priority=proto.priority if proto.HasField("priority") else 4,
        result_ttl_s=ttl_s,
        labels=dict(proto.labels),
        keep_equity=proto.keep_equity if proto.HasField("keep_equity") else True,
        keep_trades=proto.keep_trades if proto.HasField("keep_trades") else True,
        deadline_s=3600.0 if deadline_s is None else deadline_s,
        allow_reuse=proto.reuse != backtest_pb2.REUSE_NEVER,
        account=_ACCOUNT_NAMES.get(proto.account, Account.SEPARATE),
        finer_interval=INTERVAL_FROM_PROTO.get(proto.finer_interval),
    )


def _series_from_proto(proto: backtest_pb2.BacktestConfig, field: str, found: Violations) -> tuple[SeriesKey, ...]:
    """Convert the series; those that are wrong are noted and left out."""
    most = f"{field}.series", f"must be 1 to {MAX_SERIES} series"
    found.check(1 <= len(proto.series) <= MAX_SERIES, *most)
    looked_at = proto.series[:MAX_SERIES]  # a hostile request holds two hundred thousand
    converted = [series_from_proto(one, f"{field}.series[{at}]", found) for at, one in enumerate(looked_at)]
    series = [one for one in converted if one is not None]
    for at, one in enumerate(series[1:], 1):
        where = f"{field}.series[{at}]"
        found.check(one not in series[:at], where, "is given twice")
        found.check(one.interval is series[0].interval, f"{where}.interval", "must be that of the first series")
        found.check(
            one.market_type is series[0].market_type, f"{where}.market_type", "must be that of the first series"
        )
    return tuple(series)


def _check_finer(
    proto: backtest_pb2.BacktestConfig, series: tuple[SeriesKey, ...], field: str, found: Violations
) -> None:
    """Note a finer interval that is none, does not make up the klines of the series, or has no engine to use it."""
    if not proto.finer_interval or not series:
        return
    finer, where = INTERVAL_FROM_PROTO.get(proto.finer_interval), f"{field}.finer_interval"
    found.check(finer is not None, where, "must be a value of Interval")
    found.check(
        finer is None or divides(finer, series[0].interval), where, f"must divide {series[0].interval.value} evenly"
    )
    shared = proto.account == backtest_pb2.ACCOUNT_SHARED and len(series) > 1
    found.check(not shared, where, "needs an account of its own for each series")


def _check_numbers(proto: backtest_pb2.BacktestConfig, field: str, found: Violations) -> None:
    cash = proto.initial_cash
    found.check(
        not proto.HasField("initial_cash") or (math.isfinite(cash) and 0 < cash <= 1e15),
        f"{field}.initial_cash",
        "must be above 0, up to 1e15",
    )
    found.check(0 <= proto.priority <= 9, f"{field}.priority", "must be 0..9")
    found.check(
        0 <= proto.warmup_klines <= MAX_WARMUP_KLINES, f"{field}.warmup_klines", f"must be 0..{MAX_WARMUP_KLINES:,}"
    )
    found.check(proto.mode in _MODE_NAMES, f"{field}.mode", "must be a value of StrategyMode")
    found.check(proto.account in (0, *_ACCOUNT_NAMES), f"{field}.account", "must be a value of Account")
    found.check(proto.reuse in _REUSE, f"{field}.reuse", "must be a value of Reuse")


def _check_labels(proto: backtest_pb2.BacktestConfig, field: str, found: Violations) -> None:
    found.check(len(proto.labels) <= MAX_LABELS, f"{field}.labels", f"must be at most {MAX_LABELS}")
    for key, value in list(proto.labels.items())[:MAX_LABELS]:
        found.check(
            bool(_LABEL_KEY.fullmatch(key)),
            f"{field}.labels",
            "must have keys of 1..63 characters of a-z A-Z 0-9 _ . / -",
        )
        found.check(
            len(value) <= 256 and "\0" not in value,
            f"{field}.labels[{key[:63]}]",
            "must be up to 256 characters, none of them NUL",
        )


def _duration_from_proto(
    proto: backtest_pb2.BacktestConfig, name: str, field: str, found: Violations, most: float, *, least: float = 0.0
) -> float | None:
    if not proto.HasField(name):  # type: ignore[arg-type]
        return None
    duration: duration_pb2.Duration = getattr(proto, name)
    seconds = duration.seconds + duration.nanos / 1e9
    found.check(
        least <= seconds <= most and seconds > 0, f"{field}.{name}", f"must be above {least:g} s, up to {most:,.0f} s"
    )
    return seconds


def _duration_to_proto(seconds: float) -> duration_pb2.Duration:
    whole = int(seconds)
    return duration_pb2.Duration(seconds=whole, nanos=round((seconds - whole) * 1e9))
