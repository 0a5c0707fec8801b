"""Checks of objects against each other: selectors, references, disruption, scaling."""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from tests.k8s.monitoring import check_metrics
from tests.k8s.objects import K8S, Object, Objects, Pod, matches
from tests.k8s.pods import deployables

NAME = "app.kubernetes.io/name"
LOOKUP_S = 30
"""gRPC looks a name up at most this often (`grpc.dns_min_time_between_resolutions_ms`), CoreDNS answers as old."""


def required_secrets() -> dict[str, list[str]]:
    """Return the Secrets that are made outside git, and their keys."""
    found: dict[str, list[str]] = yaml.safe_load((K8S / "required-secrets.yaml").read_text())
    return found


def check_selectors(objects: Objects) -> list[str]:
    """Whatever selects pods selects some, and Services name ports these have."""
    problems, pods = [], list(objects.pods())
    for kind in ("Deployment", "StatefulSet"):
        for one in objects.of(kind):
            if not matches(one["spec"]["selector"], one["spec"]["template"]["metadata"]["labels"]):
                problems.append(f"{_name(one)}: its selector does not match its own pods")
    for one in objects.of("Service"):
        chosen = [pod for pod in pods if matches({"matchLabels": one["spec"]["selector"]}, pod.labels)]
        missing = [port["name"] for port in one["spec"]["ports"] if not _has_port(chosen, port["targetPort"])]
        problems += [f"{_name(one)}: port {port} is nobody's" for port in missing]
    for kind, key in (
        ("PodDisruptionBudget", "selector"),
        ("NetworkPolicy", "podSelector"),
        ("PodMonitor", "selector"),
    ):
        for one in objects.of(kind):
            if not any(matches(one["spec"][key], pod.labels) for pod in pods):
                problems.append(f"{_name(one)}: selects no pod")
    return problems + _scrape_faults(objects)


def _scrape_faults(objects: Objects) -> list[str]:
    faults, monitors = [], objects.of("PodMonitor")
    for pod, _, _ in deployables(objects):
        chosen_by = [one for one in monitors if matches(one["spec"]["selector"], pod.labels)]
        ports = [endpoint["port"] for one in chosen_by for endpoint in one["spec"]["podMetricsEndpoints"]]
        if monitors and (not ports or not pod.ports.keys() >= set(ports)):
            faults.append(f"{pod.owner}: Prometheus asks for its ports {ports}")
    return faults


def _has_port(pods: list[Pod], port: str | int) -> bool:
    return bool(pods) and all(port in pod.ports or port in pod.ports.values() for pod in pods)


def check_headless(objects: Objects) -> list[str]:
    """gRPC goes round the pods by itself: Services have no address of their own, targets ask for all of theirs."""
    problems = [f"{_name(one)}: is not headless" for one in objects.of("Service") if one["spec"]["clusterIP"] != "None"]
    problems += [f"{_name(one)}: nothing translates its port {port}" for one, port in _translated_ports(objects)]
    for pod, container, _ in deployables(objects):
        for name, value in objects.environment(container).items():
            if name.endswith("_TARGET") and not _is_service(objects, value or ""):
                problems.append(f"{pod.owner}: {name} is not dns:/// and a Service's name and port")
    return problems


def _translated_ports(objects: Objects) -> Iterator[tuple[Object, int]]:
    """Yield the ports at which no pod listens: a headless Service is names of pods, not a way to other ports."""
    for one in objects.of("Service"):
        chosen = [pod for pod in objects.pods() if matches({"matchLabels": one["spec"]["selector"]}, pod.labels)]
        for port in one["spec"]["ports"]:
            if any(pod.ports.get(port["targetPort"], port["targetPort"]) != port["port"] for pod in chosen):
                yield one, port["port"]


def _is_service(objects: Objects, target: str) -> bool:
    host, _, port = target.removeprefix("dns:///").partition(":")
    service = objects.named("Service", host)
    ports = [str(one["port"]) for one in service["spec"]["ports"]] if service else []
    return target.startswith("dns:///") and port in ports


def check_disruption(objects: Objects) -> list[str]:
    """Each Deployment has one budget that leaves a node drainable; a rollout takes nothing away first."""
    problems = []
    for one in objects.of("Deployment"):
        labels = one["spec"]["template"]["metadata"]["labels"]
        budgets = [b for b in objects.of("PodDisruptionBudget") if matches(b["spec"]["selector"], labels)]
        if len(budgets) != 1:
            problems.append(f"{_name(one)}: {len(budgets)} disruption budgets")
        least = _least_replicas(objects, one)
        problems += [f"{_name(one)}: its budget lets no pod go" for b in budgets if not _lets_go(b["spec"], least)]
        if one["spec"].get("strategy", {}).get("rollingUpdate", {}).get("maxUnavailable") != 0:
            problems.append(f"{_name(one)}: a rollout takes pods away before others are ready")
        if not one["spec"]["template"]["spec"].get("topologySpreadConstraints"):
            problems.append(f"{_name(one)}: is not spread over nodes")
        called = any(matches({"matchLabels": each["spec"]["selector"]}, labels) for each in objects.of("Service"))
        if called and one["spec"].get("minReadySeconds", 0) <= LOOKUP_S:
            problems.append(f"{_name(one)}: a rollout may be over before callers look its pods up again")
    return problems


def _lets_go(budget: Object, least: int) -> bool:
    if "maxUnavailable" in budget:
        return budget["maxUnavailable"] not in (0, "0%")
    return isinstance(budget["minAvailable"], int) and budget["minAvailable"] < least


def _least_replicas(objects: Objects, deployment: Object) -> int:
    found = [least for scaler, least, _ in scalers(objects) if _target(scaler) == _name(deployment)]
    return found[0] if found else int(deployment["spec"].get("replicas", 1))


def scalers(objects: Objects) -> Iterator[tuple[Object, int, int]]:
    """Yield what changes replicas, with its least and its most."""
    for one in objects.of("HorizontalPodAutoscaler"):
        yield one, one["spec"].get("minReplicas", 1), one["spec"]["maxReplicas"]
    for one in objects.of("ScaledObject"):
        yield one, one["spec"].get("minReplicaCount", 0), one["spec"].get("maxReplicaCount", 100)


def check_scaling(objects: Objects) -> list[str]:
    """A scaler has a target of its own whose replicas nobody else sets, and bounds in their order."""
    problems, targets = [], [_target(one) for one, _, _ in scalers(objects)]
    for one, least, most in scalers(objects):
        target = objects.named("Deployment", _target(one))
        if not 1 <= least <= most:
            problems.append(f"{_name(one)}: at least {least}, at most {most} replicas")
        if target is None or targets.count(_target(one)) > 1:
            problems.append(f"{_name(one)}: {_target(one)} is not there, or another scaler's")
        elif "replicas" in target["spec"]:
            problems.append(f"{_name(one)}: each apply of {_target(one)} would set its replicas")
    return problems + _capacity_faults(objects) + _measure_faults(objects)


def _measure_faults(objects: Objects) -> list[str]:
    """Return the scalers that wait for what never happens: a metric nobody exports, more CPU than is asked for."""
    faults = []
    for one in objects.of("ScaledObject"):
        queries = [trigger["metadata"].get("query", "") for trigger in one["spec"]["triggers"]]
        faults += [f"{_name(one)}: {fault}" for fault in check_metrics(queries, set())]
    for one in objects.of("HorizontalPodAutoscaler"):
        for metric in one["spec"]["metrics"]:
            percent = metric["resource"]["target"].get("averageUtilization", 0)
            if not 1 <= percent <= 100:
                faults.append(f"{_name(one)}: aims at {percent} % of what its pods ask for")
    return faults


def _capacity_faults(objects: Objects) -> list[str]:
    faults = []
    by_pod = {pod.owner: objects.environment(container) for pod, container, _ in deployables(objects)}
    for one, _, most in scalers(objects):
        environment = by_pod.get(_target(one), {})
        running = int(environment.get("KLINECAST_MAX_RUNNING") or 64)
        if most * int(environment.get("KLINECAST_WORKERS") or 0) > running:
            faults.append(f"{_name(one)}: more workers than KLINECAST_MAX_RUNNING ({running}) ever lets run")
    return faults


def check_references(objects: Objects) -> list[str]:
    """What pods and scalers refer to exists: Secrets with their keys, ConfigMaps, ServiceAccounts, volumes."""
    secrets, problems = required_secrets(), []
    for where, secret, key in _secret_references(objects):
        if secret not in secrets or (key is not None and key not in secrets[secret]):
            problems.append(f"{where}: Secret {secret} key {key} is not in k8s/required-secrets.yaml")
    for pod in objects.pods():
        account, volumes = pod.spec.get("serviceAccountName"), {one["name"] for one in pod.spec.get("volumes", [])}
        if account is not None and objects.named("ServiceAccount", account) is None:
            problems.append(f"{pod.owner}: no ServiceAccount {account}")
        for name in _config_maps(pod):
            if objects.named("ConfigMap", name) is None:
                problems.append(f"{pod.owner}: no ConfigMap {name}")
        mounted = {mount["name"] for one in pod.containers for mount in one.get("volumeMounts", [])}
        claims = {one["metadata"]["name"] for one in _claims(objects, pod)}
        problems += [f"{pod.owner}: no volume {name}" for name in sorted(mounted - volumes - claims)]
    for one in objects.of("ScaledObject"):
        for name in [
            each["authenticationRef"]["name"] for each in one["spec"]["triggers"] if "authenticationRef" in each
        ]:
            if objects.named("TriggerAuthentication", name) is None:
                problems.append(f"{_name(one)}: no TriggerAuthentication {name}")
    return problems


def _secret_references(objects: Objects) -> Iterator[tuple[str, str, str | None]]:
    for pod in objects.pods():
        for container in pod.containers:
            for variable in container.get("env", []):
                if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                    yield pod.owner, reference["name"], reference["key"]
            for source in container.get("envFrom", []):
                if "secretRef" in source:
                    yield pod.owner, source["secretRef"]["name"], None
        for volume in pod.spec.get("volumes", []):
            if secret := volume.get("secret"):
                for item in secret.get("items", [{}]):
                    yield pod.owner, secret["secretName"], item.get("key")
    for one in objects.of("TriggerAuthentication"):
        for reference in one["spec"].get("secretTargetRef", []):
            yield _name(one), reference["name"], reference["key"]


def _config_maps(pod: Pod) -> list[str]:
    sources = [source for one in pod.containers for source in one.get("envFrom", [])]
    return [source["configMapRef"]["name"] for source in sources if "configMapRef" in source]


def _claims(objects: Objects, pod: Pod) -> list[Object]:
    owner = objects.named("StatefulSet", pod.owner)
    return list(owner["spec"].get("volumeClaimTemplates", [])) if owner else []


def check_no_secrets(objects: Objects) -> list[str]:
    """No password comes from git: not as a Secret, not as the value of a variable."""
    problems = [f"{_name(one)}: a Secret in git" for one in objects.of("Secret")]
    for pod in objects.pods():
        for container in pod.containers:
            for name, value in objects.environment(container).items():
                if value and name.endswith(("PASSWORD", "TOKEN", "__URL", "BROKER_URL")):
                    problems.append(f"{pod.owner}: {name} has a value in git")
    return problems


def _name(one: Object) -> str:
    name: str = one["metadata"]["name"]
    return name


def _target(scaler: Object) -> str:
    name: str = scaler["spec"]["scaleTargetRef"]["name"]
    return name


CHECKS = {
    "selectors match": check_selectors,
    "services are headless": check_headless,
    "disruption is bounded": check_disruption,
    "scalers are in order": check_scaling,
    "references exist": check_references,
    "no secrets in git": check_no_secrets,
}
