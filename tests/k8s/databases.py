"""Checks of the databases: whose URL a container has, who migrates each schema, how many connections there may be."""

from __future__ import annotations

import re

from services.runtime.config import DatabaseSettings
from tests.k8s.cluster import scalers
from tests.k8s.objects import ROOT, Object, Objects, Pod
from tests.k8s.pods import SERVICES, deployables

OPERATIONS = ROOT / "docs" / "operations.md"
URL = "KLINECAST_DATABASE__URL"
PROBE_AND_LISTENER, SPARE_AND_PARENT = 2, 2


def check_databases(objects: Objects) -> list[str]:
    """Each container has the URL of its own schema; each schema is migrated by a Job, from the image that serves."""
    problems, served = [], {}
    jobs = {one["metadata"]["name"] for one in objects.of("Job")}
    migrated: set[tuple[str, str]] = set()
    for pod in objects.pods():
        for container in pod.containers:
            if (module := _suite_module(container)) is None:
                continue
            wanted = f"klinecast-{module.split('.')[1]}-database"
            if (found := _secret(container)) != wanted:
                problems.append(f"{pod.owner}/{container['name']}: has the database of {found}, not {wanted}")
            if pod.owner in jobs and container["args"][3:] == ["--migrate"]:
                migrated.add((module, container["image"]))
            elif module in SERVICES:
                served[module] = container["image"]
    return problems + [
        f"no Job migrates {one} by {image}" for one, image in served.items() if (one, image) not in migrated
    ]


def _suite_module(container: Object) -> str | None:
    args = container.get("args", [])
    return args[2] if args[:2] == ["python", "-m"] else None


def _secret(container: Object) -> str | None:
    for variable in container.get("env", []):
        if variable["name"] == URL:
            name: str = variable.get("valueFrom", {}).get("secretKeyRef", {}).get("name")
            return name
    return None


def check_connections(objects: Objects, operations: str) -> list[str]:
    """The number of connections that docs/operations.md asks for is the sum over all pods there may be in a rollout."""
    total = sum(len(pod.containers) for pod in objects.pods() if objects.named("Job", pod.owner))
    for pod, container, _ in deployables(objects):
        total += _most_pods(objects, pod) * _connections(objects.environment(container))
    said = re.search(r"(\d+) in the production overlay", operations)
    return (
        []
        if said and int(said[1]) == total
        else [f"docs/operations.md: {total} connections, it says {said and said[1]}"]
    )


def _connections(environment: dict[str, str | None]) -> int:
    if "KLINECAST_LISTEN" not in environment:
        return int(environment.get("KLINECAST_WORKERS") or 1) + SPARE_AND_PARENT
    pool = DatabaseSettings.model_fields
    return int(pool["pool_size"].default + pool["max_overflow"].default) + PROBE_AND_LISTENER


def _most_pods(objects: Objects, pod: Pod) -> int:
    most = next(most for one, _, most in scalers(objects) if one["spec"]["scaleTargetRef"]["name"] == pod.owner)
    deployment = objects.named("Deployment", pod.owner)
    assert deployment is not None
    surge = str(deployment["spec"]["strategy"]["rollingUpdate"]["maxSurge"])
    return most + (-(-most * int(surge[:-1]) // 100) if surge.endswith("%") else int(surge))


CHECKS = {"databases are migrated, each its own": check_databases}
