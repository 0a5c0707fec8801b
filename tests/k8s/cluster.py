"""Checks of objects against each other: selectors, references, disruption, scaling, the network."""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from tests.k8s.objects import K8S, Object, Objects, Pod, matches
from tests.k8s.pods import deployables

NAME = "app.kubernetes.io/name"
_STORES, _DNS, _COLLECTOR = {5432}, {53}, {4317}
REACH = {
    "services.data": _STORES | _DNS | _COLLECTOR,
    "services.results": _STORES | _DNS | _COLLECTOR,
    "services.backtest": _STORES | _DNS | _COLLECTOR | {50051, 50053},
    "services.backtest.worker": _STORES | _DNS | _COLLECTOR | {50051, 50053},
}
"""The ports each may open connections to; those that use the broker also its 6379."""


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
    return problems


def _has_port(pods: list[Pod], port: str | int) -> bool:
    return bool(pods) and all(port in pod.ports or port in pod.ports.values() for pod in pods)


def check_headless(objects: Objects) -> list[str]:
    """gRPC goes round the pods by itself: Services have no address of their own, targets ask for all of theirs."""
    problems = [f"{_name(one)}: is not headless" for one in objects.of("Service") if one["spec"]["clusterIP"] != "None"]
    for pod, container, _ in deployables(objects):
        for name, value in objects.environment(container).items():
            if name.endswith("_TARGET") and not _is_service(objects, value or ""):
                problems.append(f"{pod.owner}: {name} is not dns:/// and a Service's name and port")
    return problems


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
    return problems + _capacity_faults(objects)


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


def check_network(objects: Objects) -> list[str]:
    """Everything is denied but what is named; each component reaches what it needs and nothing else."""
    policies = objects.of("NetworkPolicy")
    denials = [one for one in policies if one["spec"]["podSelector"] == {} and len(one["spec"]) == 2]
    problems = (
        [] if any(set(one["spec"]["policyTypes"]) == {"Ingress", "Egress"} for one in denials) else ["no default"]
    )
    for one in policies:
        for way, peer in (("ingress", "from"), ("egress", "to")):
            for rule in one["spec"].get(way, []):
                if not rule.get(peer) or not rule.get("ports") or not all(map(_is_named, rule[peer])):
                    problems.append(f"{_name(one)}: {way} names no peer or no port")
    for pod, _, module in deployables(objects):
        wanted = REACH[module] | ({6379} if "klinecast.io/uses-broker" in pod.labels else set())
        if (reached := _reached(policies, pod)) != wanted:
            problems.append(f"{pod.owner}: reaches {sorted(reached)}, needs {sorted(wanted)}")
    return problems + _entrance_faults(objects)


def _is_named(peer: Object) -> bool:
    if "ipBlock" in peer:
        return int(peer["ipBlock"]["cidr"].rpartition("/")[2]) >= 16
    return any(selector for selector in peer.values())


def _reached(policies: list[Object], pod: Pod) -> set[int]:
    mine = [one["spec"] for one in policies if matches(one["spec"]["podSelector"], pod.labels)]
    return {port["port"] for one in mine for rule in one.get("egress", []) for port in rule["ports"]}


def _entrance_faults(objects: Objects) -> list[str]:
    faults = []
    for one in objects.of("NetworkPolicy"):
        chosen = [pod for pod in objects.pods() if matches(one["spec"]["podSelector"], pod.labels)]
        chosen = [pod for pod in chosen if pod.ports]  # a Job listens nowhere
        for rule in one["spec"].get("ingress", []):
            ports = [port["port"] for port in rule["ports"] if not _has_port(chosen, port["port"])]
            faults += [f"{_name(one)}: lets callers to port {port}, which is nobody's" for port in ports]
    return faults


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
    "the network is closed": check_network,
}
