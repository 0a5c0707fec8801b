"""The metrics of PromQL expressions, and those that each process exports."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from services.backtest.telemetry import BacktestTelemetry, WorkerCollector
from services.data.telemetry import DataTelemetry
from services.results.cache import PayloadCache
from services.results.telemetry import ResultsTelemetry
from services.runtime.interceptors.metrics import RpcMetrics
from services.runtime.metrics import AuthMetrics, DatabaseCollector, new_registry

_SELECTOR = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(\{[^}]*\})?")
_GROUPING = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_RANGE = re.compile(r"\[[^\]]*\]")
_WORDS = {
    "and",
    "or",
    "unless",
    "bool",
    "offset",
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
    "inf",
}
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_SUFFIXES = {
    "counter": ("_total",),
    "histogram": ("_bucket", "_sum", "_count"),
    "summary": ("_sum", "_count", ""),
}


@dataclass(frozen=True, slots=True)
class Selector:
    """A metric an expression reads, and which of its series."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...] = ()
    """Label, operator, value."""

    def accepts(self, labels: dict[str, str]) -> bool:
        """Tell whether a series of the metric, as its process exports it, is one of those meant."""
        return all(self._fits(labels, *one) for one in self.matchers if one[0] not in ("job", "instance"))

    @staticmethod
    def _fits(labels: dict[str, str], name: str, operator: str, value: str) -> bool:
        if name not in labels:
            return False
        equal = re.fullmatch(value, labels[name]) is not None if "~" in operator else labels[name] == value
        return equal != operator.startswith("!")


def selectors(expression: str) -> Iterator[Selector]:
    """Yield what an expression reads."""
    bare = _RANGE.sub("", _GROUPING.sub(" ", expression))
    for found in _SELECTOR.finditer(bare):
        is_call = bare[found.end() :].lstrip().startswith("(") and not found.group(2)
        is_number = found.start() > 0 and bare[found.start() - 1].isdigit()
        if found.group(1) in _WORDS or is_call or is_number:
            continue
        yield Selector(found.group(1), tuple(_MATCHER.findall(found.group(2) or "")))


def exported_names() -> set[str]:
    """Return the name of every series that a service or a worker may have on its page."""
    registry = new_registry()
    for build in (RpcMetrics, DataTelemetry, BacktestTelemetry):
        build(registry)
    ResultsTelemetry(registry, PayloadCache(0, 1.0))
    registry.register(WorkerCollector(list))
    for service in ("data", "backtest", "results"):
        AuthMetrics(service, registry)
        registry.register(DatabaseCollector(service, lambda: (0, 0, 0)))
    return series_names(registry)


def series_names(registry: CollectorRegistry) -> set[str]:
    """Return the series a registry's families have, those without a sample yet included."""
    return {family.name + suffix for family in registry.collect() for suffix in _SUFFIXES.get(family.type, ("",))}
