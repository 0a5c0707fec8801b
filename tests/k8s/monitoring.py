"""Checks of alerts and dashboard: their metrics exist, their numbers fit the manifests, each alert is explained."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.k8s.objects import K8S, ROOT, Objects, quantity
from tests.k8s.promql import Selector, exported_names, selectors

MONITORING = K8S / "components" / "monitoring"
RULES = MONITORING / "klinecast-rules.yaml"
RULES_TEST = MONITORING / "klinecast-rules-test.yaml"
OPERATOR_RULES = MONITORING / "prometheus-rule.yaml"
DASHBOARD = MONITORING / "klinecast-dashboard.json"
OPERATIONS = ROOT / "docs" / "operations.md"
PROMETHEUS = frozenset({"up"})
"""What Prometheus itself adds to every target."""
TOPICS = {
    "durations by phase": "klinecast_backtest_phase_duration_seconds_bucket",
    "share of time spent loading data": "klinecast_backtest_phase_duration_seconds_sum",
    "memory": "process_resident_memory_bytes",
    "CPU": "process_cpu_seconds_total",
    "active": "klinecast_backtest_active",
    "queued": "klinecast_backtest_queued",
    "rate and success": "klinecast_backtest_backtests_total",
    "waiting time": "klinecast_backtest_wait_seconds_bucket",
    "calls": "grpc_server_started_total",
    "errors of calls": "grpc_server_handled_total",
    "durations of calls": "grpc_server_handling_seconds_bucket",
    "queue age": "klinecast_backtest_queue_age_seconds",
    "lease rescues": "klinecast_backtest_rescues_total",
    "sweeper backlog": "klinecast_results_sweep_backlog",
    "cache hits": "klinecast_data_cache_hits_total",
    "database pool": "klinecast_data_database_connections",
    "files refused": "klinecast_data_auth_files_refused_total",
    "end of certificates": "klinecast_data_certificate_expiry_timestamp_seconds",
}
"""What the dashboard must show, and the metric it shows it with."""


def load_rules(path: Path = RULES) -> list[dict[str, Any]]:
    """Return the rules of all groups."""
    return [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def load_dashboard() -> dict[str, Any]:
    """Return the dashboard."""
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def dashboard_expressions(dashboard: dict[str, Any]) -> list[str]:
    """Return the expression of every panel, the variables of Grafana replaced."""
    targets = [target for panel in dashboard["panels"] for target in panel.get("targets", [])]
    return [one["expr"].replace("$__rate_interval", "5m").replace("$job", "klinecast-.*") for one in targets]


def check_metrics(expressions: list[str], recorded: set[str]) -> list[str]:
    """Every metric that is read is exported, recorded or Prometheus' own."""
    known = exported_names() | recorded | PROMETHEUS
    read = {selector.metric for one in expressions for selector in selectors(one)}
    return [f"{name}: no process exports it" for name in sorted(read - known)]


def check_topics(expressions: list[str]) -> list[str]:
    """The dashboard shows what it is there to show."""
    read = {selector.metric for one in expressions for selector in selectors(one)}
    return [f"no panel shows {topic}" for topic, metric in TOPICS.items() if metric not in read]


def check_panels(dashboard: dict[str, Any]) -> list[str]:
    """No two panels share an id or a place."""
    panels, taken, problems = dashboard["panels"], set(), []
    if len({one["id"] for one in panels}) != len(panels):
        problems.append("two panels have one id")
    for one in panels:
        place = one["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in _rows(place)}
        if cells & taken or place["x"] + place["w"] > 24:
            problems.append(f"panel {one['title']} stands on another")
        taken |= cells
    return problems


def _rows(place: dict[str, int]) -> range:
    return range(place["y"], place["y"] + place["h"])


def check_runbooks(rules: list[dict[str, Any]], operations: str) -> list[str]:
    """Each alert links to its section, and no section is about an alert that is gone."""
    headings = set(re.findall(r"^#+ (Klinecast\w+)$", operations, re.MULTILINE))
    alerts = {rule["alert"]: rule["annotations"]["runbook"] for rule in rules if "alert" in rule}
    wrong = [name for name, link in alerts.items() if link != f"docs/operations.md#{name.lower()}"]
    problems = [f"{name}: its runbook is elsewhere" for name in wrong]
    problems += [f"{name}: has no section in docs/operations.md" for name in sorted(set(alerts) - headings)]
    return problems + [f"{name}: is explained, and no alert" for name in sorted(headings - set(alerts))]


def check_tested(rules: list[dict[str, Any]], tests: str) -> list[str]:
    """Each alert is shown to fire and shown to be silent."""
    cases = [case for test in yaml.safe_load(tests)["tests"] for case in test["alert_rule_test"]]
    fires = {case["alertname"] for case in cases if case.get("exp_alerts")}
    silent = {case["alertname"] for case in cases if not case.get("exp_alerts")}
    alerts = {rule["alert"] for rule in rules if "alert" in rule}
    return [f"{name}: no test makes it fire and none leaves it silent" for name in sorted(alerts - (fires & silent))]


def check_memory_alert(objects: Objects, rules: list[dict[str, Any]]) -> list[str]:
    """The alert on memory knows the limits: nine tenths of them."""
    expression = next(rule["expr"] for rule in rules if rule.get("alert") == "KlinecastMemoryHigh")
    problems = []
    for job, threshold in re.findall(r'job="([\w-]+)"\} > (\d+)', expression):
        pod = next(one for one in objects.pods() if one.owner == job)
        limit = quantity(pod.spec["containers"][0]["resources"]["limits"]["memory"])
        if abs(int(threshold) - 0.9 * limit) > 1:
            problems.append(f"KlinecastMemoryHigh: {job} has a limit of {limit:.0f}, the alert says {threshold}")
    return problems


def operator_rule() -> str:
    """Return the PrometheusRule that says what the rules file says."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    head = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "metadata": {"name": "klinecast"}}
    body = yaml.safe_dump(head | {"spec": {"groups": groups}}, sort_keys=False, width=1000, allow_unicode=True)
    return f"# Written by `python -m tests.k8s.rules` from klinecast-rules.yaml; edit that.\n{body}"


def read_series(page: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield name and labels of each series of a Prometheus page."""
    for line in page.splitlines():
        if line and not line.startswith("#"):
            name, _, rest = line.rpartition(" ")[0].partition("{")
            yield name, dict(re.findall(r'(\w+)="([^"]*)"', rest))


def unmet(wanted: list[Selector], pages: list[str]) -> list[Selector]:
    """Return the selectors that choose no series of any page."""
    series = [one for page in pages for one in read_series(page)]
    return [one for one in wanted if not any(one.metric == name and one.accepts(labels) for name, labels in series)]
