"""Checks of compose.yaml: loopback only, known settings, time to stop, no password in git."""

from __future__ import annotations

from typing import Any

import yaml

from services.runtime.known_settings import KNOWN_SETTINGS
from tests.k8s.objects import ROOT
from tests.k8s.pods import STOP_EXTRA_S

COMPOSE = ROOT / "compose.yaml"
COMPONENTS = ("data", "backtest", "results", "worker")


def load_compose() -> dict[str, Any]:
    """Return the file, its anchors and merges resolved."""
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return found


def check_compose(compose: dict[str, Any]) -> list[str]:
    """Return what is wrong."""
    services = compose["services"]
    problems = [
        f"{name} is missing" for name in (*COMPONENTS, "postgres", "valkey", "prometheus") if name not in services
    ]
    for name, service in services.items():
        problems += [f"{name}: {one}" for one in _service_faults(service, set(services))]
        if name in COMPONENTS:
            problems += [f"{name}: {one}" for one in _component_faults(service)]
    if services.get("worker", {}).get("deploy", {}).get("replicas") != 2:
        problems.append("worker: not two")
    return problems


def _service_faults(service: dict[str, Any], services: set[str]) -> list[str]:
    faults = [f"port {port} is open to other machines" for port in service.get("ports", []) if not _is_local(port)]
    faults += [f"waits for {one}, which is nobody" for one in set(service.get("depends_on", {})) - services]
    tag = service["image"].rpartition(":")[2]
    if ":" not in service["image"] or tag == "latest":
        faults.append("its image has no fixed tag")
    for name, value in service.get("environment", {}).items():
        if name.endswith(("PASSWORD", "__URL")) and "${POSTGRES_PASSWORD:?" not in value:
            faults.append(f"{name} has a password in git, or none")
    return faults


def _is_local(port: str) -> bool:
    return port.startswith("127.0.0.1:")


def _component_faults(service: dict[str, Any]) -> list[str]:
    environment = service["environment"]
    unknown = {name for name in environment if name not in KNOWN_SETTINGS}
    faults = [f"{name} is no setting" for name in sorted(unknown)]
    stop = float(environment.get("KLINECAST_SHUTDOWN__DRAIN_SECONDS", 10)) + STOP_EXTRA_S
    if float(service["stop_grace_period"].removesuffix("s")) < stop:
        faults.append(f"is killed before the {stop} s that a stop may take")
    if service.get("read_only") is not True or service.get("cap_drop") != ["ALL"]:
        faults.append("may write to its root, or keeps capabilities")
    return faults
