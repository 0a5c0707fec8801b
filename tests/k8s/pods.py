"""Checks of one pod at a time: security, resources, probes, the time it has to stop, its settings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from unittest import mock

from pydantic import ValidationError

from services.backtest.settings import BacktestSettings, WorkerSettings
from services.data.settings import DataSettings
from services.results.settings import ResultsSettings
from services.runtime.config import ProcessSettings, ShutdownSettings
from services.runtime.health import LIVENESS
from services.runtime.known_settings import KNOWN_SETTINGS
from services.runtime.lifecycle import is_loopback, split_address
from tests.k8s.objects import Object, Objects, Pod, quantity

STOP_EXTRA_S = 12
"""A query on a dead link takes 10 s to cancel, the last statuses and spans 2 s."""
WORKER_PARENT_MB, SPARE_MB = 256, 300
SETTINGS: dict[str, type[ProcessSettings]] = {
    "services.data": DataSettings,
    "services.backtest": BacktestSettings,
    "services.results": ResultsSettings,
    "services.backtest.worker": WorkerSettings,
}
SERVICES = {
    "services.data": "klinecast.api.data.v1.DataService",
    "services.backtest": "klinecast.api.backtest.v1.BacktestService",
    "services.results": "klinecast.api.results.v1.ResultsService",
}
_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def module_of(container: Object) -> str | None:
    """Return the module a container runs, None where it runs something else or only migrates."""
    args = container.get("args", [])
    return args[2] if args[:2] == ["python", "-m"] and len(args) == 3 else None


def deployables(objects: Objects) -> Iterator[tuple[Pod, Object, str]]:
    """Yield the containers that run a part of the suite, with their module."""
    for pod in objects.pods():
        for container in pod.containers:
            if (module := module_of(container)) is not None:
                yield pod, container, module


def check_restricted(objects: Objects) -> list[str]:
    """Pod Security Standard `restricted`, and a root file system nobody can write to."""
    problems = []
    for pod in objects.pods():
        problems += [f"{pod.owner}: {one}" for one in _pod_faults(pod.spec)]
        for container in pod.containers:
            problems += [f"{pod.owner}/{container['name']}: {one}" for one in _container_faults(container)]
    return problems


def _pod_faults(spec: Object) -> list[str]:
    context, volumes = spec.get("securityContext", {}), spec.get("volumes", [])
    faults = [f"{name} is shared" for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    faults += [f"volume {one['name']} is no {kind}" for one in volumes for kind in set(one) - _VOLUMES - {"name"}]
    if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
        faults.append("may run as root")
    if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        faults.append("has no seccomp profile")
    return faults


def _container_faults(container: Object) -> list[str]:
    context = container.get("securityContext", {})
    capabilities = context.get("capabilities", {})
    rules = {
        "may escalate": context.get("allowPrivilegeEscalation") is not False,
        "keeps capabilities": capabilities.get("drop") != ["ALL"] or bool(capabilities.get("add")),
        "is privileged": bool(context.get("privileged")),
        "may write to its root": context.get("readOnlyRootFilesystem") is not True,
        "may run as root": context.get("runAsNonRoot", True) is not True or context.get("runAsUser", 1) == 0,
        "takes a port of the host": any("hostPort" in port for port in container.get("ports", [])),
    }
    return [fault for fault, broken in rules.items() if broken]


def check_resources(objects: Objects) -> list[str]:
    """Every container asks for CPU and memory, bounds its memory, and asks for no more than its bound."""
    problems = []
    for pod in objects.pods():
        for container in pod.containers:
            resources, where = container.get("resources", {}), f"{pod.owner}/{container['name']}"
            requests, limits = resources.get("requests", {}), resources.get("limits", {})
            missing = ({"cpu", "memory"} - set(requests)) | ({"memory"} - set(limits))
            problems += [f"{where}: {name} is not said" for name in sorted(missing)]
            over = [name for name in set(requests) & set(limits) if quantity(requests[name]) > quantity(limits[name])]
            problems += [f"{where}: requests more {name} than its limit" for name in sorted(over)]
    return problems


def check_worker_memory(objects: Objects) -> list[str]:
    """All workers of a pod may take what they are promised: no strategy has the kernel kill its neighbours."""
    problems = []
    for pod, container, _ in deployables(objects):
        environment = objects.environment(container)
        workers, each = environment.get("KLINECAST_WORKERS"), environment.get("KLINECAST_WORKER_MEMORY_MB")
        if workers is None or each is None:
            continue
        needed = (WORKER_PARENT_MB + SPARE_MB + int(workers) * int(each)) * 2**20
        if quantity(container["resources"]["limits"]["memory"]) < needed:
            problems.append(f"{pod.owner}: {workers} workers of {each} MB need {needed // 2**20} MiB")
    return problems


def check_probes(objects: Objects) -> list[str]:
    """Probes ask ports that are there; liveness never depends on the database, readiness does."""
    problems = []
    for pod in objects.pods():
        for container in pod.containers:
            where = f"{pod.owner}/{container['name']}"
            problems += [f"{where}: {one}" for one in _port_faults(container)]
    for pod, container, module in deployables(objects):
        problems += [f"{pod.owner}: {one}" for one in _probe_faults(container, module)]
        problems += [f"{pod.owner}: {one}" for one in _plaintext_faults(objects.environment(container), container)]
    return problems


def _port_faults(container: Object) -> list[str]:
    ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
    known, faults = {*ports, *ports.values()}, []
    if "livenessProbe" in container and "startupProbe" not in container:
        faults.append("may be killed while it starts")
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        for how in ("grpc", "httpGet", "tcpSocket"):
            port = container.get(name, {}).get(how, {}).get("port")
            if port is not None and port not in known:
                faults.append(f"{name} asks port {port}, which is none of its ports")
    return faults


def _probe_faults(container: Object, module: str) -> list[str]:
    if "livenessProbe" not in container or "startupProbe" not in container:
        return ["has no liveness or no startup probe"]
    if module not in SERVICES:
        return []
    faults = []
    for name, service in (
        ("livenessProbe", LIVENESS),
        ("startupProbe", LIVENESS),
        ("readinessProbe", SERVICES[module]),
    ):
        if container.get(name, {}).get("grpc", {}).get("service") != service:
            faults.append(f"{name} does not ask for {service}")
    return faults


def _plaintext_faults(environment: dict[str, str | None], container: Object) -> list[str]:
    if "KLINECAST_TLS__CERTIFICATE_FILE" not in environment or "readinessProbe" not in container:
        return []
    _, health = split_address(environment.get("KLINECAST_HEALTH_LISTEN") or ":0")
    probes = [container.get(name, {}) for name in ("readinessProbe", "livenessProbe", "startupProbe")]
    asked = {probe["grpc"]["port"] for probe in probes if "grpc" in probe}
    return [] if asked == {health} else ["the kubelet's probes speak no TLS: they must ask the health-only port"]


def check_grace(objects: Objects) -> list[str]:
    """Kubernetes waits for as long as a stop may take: preStop, drain, and what a dead link costs."""
    problems = []
    for pod, container, _ in deployables(objects):
        environment = objects.environment(container)
        prestop = float(container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0))
        prestop += float(environment.get("KLINECAST_SHUTDOWN__PRESTOP_SECONDS") or ShutdownSettings().prestop_seconds)
        drain = float(environment.get("KLINECAST_SHUTDOWN__DRAIN_SECONDS") or ShutdownSettings().drain_seconds)
        grace = pod.spec.get("terminationGracePeriodSeconds", 30)
        if grace < prestop + drain + STOP_EXTRA_S:
            problems.append(f"{pod.owner}: {grace} s of grace, {prestop} + {drain} + {STOP_EXTRA_S} s to stop")
        if container.get("readinessProbe") and prestop == 0:
            problems.append(f"{pod.owner}: refuses calls before callers know that it goes")
    return problems


def check_service_links(objects: Objects) -> list[str]:
    """No variables injected for Services (they look like settings), no token of the cluster's API."""
    return [
        f"{pod.owner}: {name} is not false"
        for pod in objects.pods()
        for name in ("enableServiceLinks", "automountServiceAccountToken")
        if pod.spec.get(name) is not False
    ]


def check_settings(objects: Objects) -> list[str]:
    """Every KLINECAST_ name is a setting, and the values are ones the process accepts."""
    problems = []
    for pod in objects.pods():
        for container in pod.containers:
            names = {name for name in objects.environment(container) if name.startswith("KLINECAST_")}
            unknown = sorted(names - KNOWN_SETTINGS)
            problems += [f"{pod.owner}/{container['name']}: {name} is no setting" for name in unknown]
    for pod, container, module in deployables(objects):
        problems += [f"{pod.owner}: {one}" for one in _value_faults(SETTINGS[module], objects.environment(container))]
    return problems


def _value_faults(settings: type[ProcessSettings], environment: dict[str, str | None]) -> list[str]:
    hidden = {"KLINECAST_DATABASE__URL": "postgresql://u@h/n", "KLINECAST_BROKER_URL": "redis://h:6379/0"}
    known = {name: value or hidden.get(name, "") for name, value in environment.items() if name in KNOWN_SETTINGS}
    with mock.patch.dict(os.environ, known, clear=True):
        try:
            settings()
        except ValidationError as error:
            return [f"{one['loc']}: {one['msg']}" for one in error.errors()]
    return []


def check_addresses(objects: Objects) -> list[str]:
    """A process listens at the ports its container names, on all addresses, and not in plaintext by accident."""
    problems = []
    for pod, container, module in deployables(objects):
        environment, ports = objects.environment(container), pod.ports
        wanted = {"KLINECAST_METRICS_LISTEN": "metrics"} | ({"KLINECAST_LISTEN": "grpc"} if module in SERVICES else {})
        for name, port in wanted.items():
            host, number = split_address(environment.get(name) or "127.0.0.1:0")
            if is_loopback(host) or number != ports.get(port):
                problems.append(f"{pod.owner}: {name} is not port {port} ({ports.get(port)}) on all addresses")
        if module in SERVICES and not _is_protected(environment):
            problems.append(f"{pod.owner}: neither TLS and credentials, nor said to be insecure")
    return problems


def _is_protected(environment: dict[str, str | None]) -> bool:
    has_tls = "KLINECAST_TLS__CERTIFICATE_FILE" in environment
    has_auth = any(f"KLINECAST_AUTH__{name}_FILE" in environment for name in ("JWKS", "TOKENS"))
    given_up = [environment.get(f"KLINECAST_INSECURE_BIND_WITHOUT_{name}") == "true" for name in ("TLS", "AUTH")]
    return (has_tls or given_up[0]) and (has_auth or given_up[1])


def check_images(objects: Objects) -> list[str]:
    """Images have a tag or a digest that stays what it is."""
    images = {container["image"] for pod in objects.pods() for container in pod.containers}
    return [f"{image}: no fixed tag" for image in sorted(images) if ":" not in image or image.endswith(":latest")]


def check_scratch(objects: Objects) -> list[str]:
    """The image has one place to write to, where its entrypoint copies the kernels: /tmp, of memory or disk."""
    problems = []
    for pod in objects.pods():
        scratch = {one["name"] for one in pod.spec.get("volumes", []) if "emptyDir" in one}
        for container in pod.containers:
            places = {mount["mountPath"] for mount in container.get("volumeMounts", []) if mount["name"] in scratch}
            if container.get("args", [])[:2] == ["python", "-m"] and "/tmp" not in places:
                problems.append(f"{pod.owner}/{container['name']}: cannot write to /tmp")
    return problems


CHECKS = {
    "pods are restricted": check_restricted,
    "requests do not exceed limits": check_resources,
    "workers fit into their pod": check_worker_memory,
    "probes ask real ports": check_probes,
    "grace covers preStop, drain and 12 s": check_grace,
    "no service links, no API token": check_service_links,
    "environment names are settings": check_settings,
    "addresses are the named ports": check_addresses,
    "images are pinned": check_images,
    "there is a /tmp": check_scratch,
}
