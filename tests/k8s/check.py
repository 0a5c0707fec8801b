"""python -m tests.k8s.check: checks of manifests, image, compose.yaml, alerts and dashboard; exit 1 if one fails."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.k8s import cluster, databases, network, pods, trust
from tests.k8s.compose import check_compose, load_compose
from tests.k8s.monitoring import (
    OPERATIONS,
    OPERATOR_RULES,
    RULES,
    RULES_TEST,
    check_memory_alert,
    check_metrics,
    check_panels,
    check_runbooks,
    check_tested,
    check_topics,
    dashboard_expressions,
    load_dashboard,
    load_rules,
    operator_rule,
)
from tests.k8s.objects import OVERLAYS, ROOT, Objects, build_overlay, find_tool
from tests.k8s.schemas import check_kubernetes, check_operators

Check = Callable[[Objects], list[str]]
CHECKS: dict[str, Check] = {
    "schemas of Kubernetes": check_kubernetes,
    "models of the operators' kinds": check_operators,
    **pods.CHECKS,
    **cluster.CHECKS,
    **network.CHECKS,
    **databases.CHECKS,
    **trust.CHECKS,
}


INSTALL = "make .venv/.ready-k8s installs it, promtool comes with Debian's package prometheus"


def main() -> int:
    """Run everything; return the exit code."""
    failed = 0
    for name, check in (*overlay_checks(), *monitoring_checks(), *other_checks()):
        problems = check()
        failed += bool(problems)
        print("\n".join([f"{'FAIL' if problems else 'PASS'}  {name}", *(f"      {one}" for one in problems)]))
    return 1 if failed else 0


def overlay_checks() -> Iterator[tuple[str, Callable[[], list[str]]]]:
    """Yield the checks of each overlay."""
    for overlay in OVERLAYS:
        try:
            objects = build_overlay(overlay)
        except (ValueError, OSError) as error:
            yield f"{overlay}: builds", partial(list, [str(error)])
            continue
        yield f"{overlay}: builds ({len(objects.all)} objects)", list
        for name, check in CHECKS.items():
            yield f"{overlay}: {name}", partial(check, objects)
        yield f"{overlay}: the memory alert knows the limits", partial(check_memory_alert, objects, load_rules())
        if objects.of("HorizontalPodAutoscaler"):
            counted = partial(databases.check_connections, objects, OPERATIONS.read_text())
            yield f"{overlay}: the connections are counted", counted


def monitoring_checks() -> Iterator[tuple[str, Callable[[], list[str]]]]:
    """Yield the checks of the alerts and the dashboard."""
    rules, dashboard = load_rules(), load_dashboard()
    shown = dashboard_expressions(dashboard)
    recorded = {rule["record"] for rule in rules if "record" in rule}
    yield "alerts: their metrics exist", partial(check_metrics, [rule["expr"] for rule in rules], recorded)
    yield "alerts: each has its section", partial(check_runbooks, rules, OPERATIONS.read_text())
    yield "alerts: each is tested", partial(check_tested, rules, RULES_TEST.read_text())
    yield "alerts: the operator's copy is the same", _check_copy
    yield "alerts: promtool accepts them", partial(run_tool, "promtool", "check", "rules", str(RULES))
    yield "alerts: promtool's tests pass", partial(run_tool, "promtool", "test", "rules", str(RULES_TEST))
    yield "dashboard: its metrics exist", partial(check_metrics, shown, recorded)
    yield "dashboard: it shows what it must", partial(check_topics, shown)
    yield "dashboard: panels have a place each", partial(check_panels, dashboard)
    yield "dashboard: promtool accepts its expressions", partial(_check_expressions, shown)


def other_checks() -> Iterator[tuple[str, Callable[[], list[str]]]]:
    """Yield the checks of the image and of compose.yaml."""
    yield "Dockerfile: hadolint is content", partial(run_tool, "hadolint", str(ROOT / "Dockerfile"))
    yield "compose.yaml: loopback, settings, stop, passwords", partial(check_compose, load_compose())
    yield "compose.yaml: the kinds of Prometheus' settings", _check_prometheus


def _check_copy() -> list[str]:
    return [] if OPERATOR_RULES.read_text() == operator_rule() else ["run python -m tests.k8s.rules"]


def _check_expressions(expressions: list[str]) -> list[str]:
    rules = [{"record": "klinecast:panel", "expr": one, "labels": {"n": str(n)}} for n, one in enumerate(expressions)]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump({"groups": [{"name": "dashboard", "rules": rules}]}, file)
        file.flush()
        return run_tool("promtool", "check", "rules", "--lint=none", file.name)


def _check_prometheus() -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "prometheus.yaml"
        text = (ROOT / "compose" / "prometheus.yaml").read_text()
        settings.write_text(text.replace("/etc/prometheus/klinecast-rules.yaml", str(RULES)))
        return run_tool("promtool", "check", "config", str(settings))


def run_tool(tool: str, *arguments: str) -> list[str]:
    """Return what a program of other people complains about; that it is missing is a fault."""
    if (program := find_tool(tool)) is None:
        return [f"{tool} is not installed: {INSTALL}"]
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120)
    return [] if done.returncode == 0 else [*done.stdout.splitlines(), *done.stderr.splitlines()]


if __name__ == "__main__":
    sys.exit(main())
