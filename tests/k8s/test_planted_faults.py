"""Each check finds the fault it is there for: every one is planted here, in the production overlay as it is built."""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.k8s import cluster, databases, network, pods, trust
from tests.k8s.check import run_tool
from tests.k8s.compose import check_compose, load_compose
from tests.k8s.monitoring import (
    OPERATIONS,
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
)
from tests.k8s.objects import Object, Objects, build_overlay, find_tool
from tests.k8s.schemas import check_kubernetes, check_operators

Plant = Callable[[Objects], object]


@pytest.fixture(scope="module")
def built() -> Objects:
    if find_tool("kubectl") is None or importlib.util.find_spec("kubernetes_validate") is None:
        pytest.skip("kubectl and kubernetes-validate are not installed: make k8s-check installs them")
    return build_overlay("production")


@pytest.fixture
def objects(built: Objects) -> Objects:
    return copy.deepcopy(built)


def named(objects: Objects, kind: str, name: str) -> Object:
    found = objects.named(kind, f"klinecast-{name}")
    assert found is not None, (kind, name)
    return found


def pod(objects: Objects, name: str = "data") -> Object:
    spec: Object = named(objects, "Deployment", name)["spec"]["template"]["spec"]
    return spec


def container(objects: Objects, name: str = "data") -> Object:
    first: Object = pod(objects, name)["containers"][0]
    return first


def environment(objects: Objects, name: str, **values: str) -> None:
    container(objects, name)["env"] += [{"name": f"KLINECAST_{key}", "value": value} for key, value in values.items()]


def settings(objects: Objects) -> dict[str, str]:
    [found] = [one["data"] for one in objects.of("ConfigMap") if "klinecast-settings" in one["metadata"]["name"]]
    return found  # type: ignore[no-any-return]


def spec(objects: Objects, kind: str, name: str) -> Object:
    found: Object = named(objects, kind, name)["spec"]
    return found


def without(mapping: Object, *path: str) -> None:
    for name in path[:-1]:
        mapping = mapping[name]
    del mapping[path[-1]]


def drop(objects: Objects, kind: str, name: str) -> None:
    objects.all.remove(named(objects, kind, name))  # type: ignore[attr-defined]


def job(objects: Objects) -> Object:
    found: Object = spec(objects, "Job", "migrations")["template"]
    return found


def only(name: str) -> Object:
    return {"matchLabels": {cluster.NAME: f"klinecast-{name}"}}


def endpoint(objects: Objects) -> Object:
    found: Object = objects.of("PodMonitor")[0]["spec"]["podMetricsEndpoints"][0]
    return found


def query(objects: Objects, expression: str) -> None:
    spec(objects, "ScaledObject", "worker")["triggers"][0]["metadata"].update(query=expression)


def cpu_target(objects: Objects, name: str) -> Object:
    found: Object = spec(objects, "HorizontalPodAutoscaler", name)["metrics"][0]["resource"]["target"]
    return found


def serve_at(objects: Objects, name: str, port: int) -> None:
    """Move a Service and those that call it to another port than its pods listen at."""
    spec(objects, "Service", name)["ports"][0].update(port=port)
    settings(objects)[f"KLINECAST_{name.upper()}_TARGET"] = f"dns:///klinecast-{name}:{port}"


def unmount(container: Object, path: str) -> None:
    container["volumeMounts"] = [one for one in container["volumeMounts"] if one["mountPath"] != path]


def callers(objects: Objects) -> Object:
    found: Object = spec(objects, "NetworkPolicy", "from-callers")["ingress"][0]["from"][0]
    return found


def data_peer(objects: Objects) -> Object:
    found: Object = spec(objects, "NetworkPolicy", "backtests-to-services")["egress"][0]["to"][0]
    return found


def mix_up(pod: Object) -> None:
    """Give a pod's first container the database of results."""
    [url] = [one for one in pod["containers"][0]["env"] if one["name"] == databases.URL]
    url["valueFrom"]["secretKeyRef"]["name"] = "klinecast-results-database"


EVERYBODY = [{"ipBlock": {"cidr": "0.0.0.0/0"}}]
FAULTS: dict[str, list[tuple[str, Plant]]] = {
    "pods are restricted": [
        ("may run as root", lambda o: without(pod(o), "securityContext", "runAsNonRoot")),
        ("has no seccomp profile", lambda o: without(pod(o), "securityContext", "seccompProfile")),
        ("hostNetwork is shared", lambda o: pod(o).update(hostNetwork=True)),
        ("is no hostPath", lambda o: pod(o)["volumes"].append({"name": "x", "hostPath": {"path": "/"}})),
        ("may escalate", lambda o: without(container(o), "securityContext", "allowPrivilegeEscalation")),
        ("keeps capabilities", lambda o: container(o)["securityContext"].update(capabilities={"drop": ["NET_RAW"]})),
        ("may write to its root", lambda o: without(container(o), "securityContext", "readOnlyRootFilesystem")),
        ("takes a port of the host", lambda o: container(o)["ports"][0].update(hostPort=1)),
    ],
    "requests do not exceed limits": [
        ("requests more memory", lambda o: container(o)["resources"]["requests"].update(memory="64Gi")),
        ("cpu is not said", lambda o: without(container(o), "resources", "requests", "cpu")),
        ("memory is not said", lambda o: without(container(o), "resources", "limits")),
    ],
    "workers fit into their pod": [
        ("workers of", lambda o: container(o, "worker")["resources"]["limits"].update(memory="1Gi")),
    ],
    "probes ask real ports": [
        ("none of its ports", lambda o: container(o)["readinessProbe"]["grpc"].update(port=1)),
        ("does not ask for liveness", lambda o: container(o)["livenessProbe"]["grpc"].update(service="")),
        ("may be killed while it starts", lambda o: without(container(o, "worker"), "startupProbe")),
        ("has no liveness", lambda o: without(container(o), "livenessProbe")),
        ("speak no TLS", lambda o: container(o)["readinessProbe"]["grpc"].update(port=50051)),
    ],
    "grace covers preStop, drain and 12 s": [
        ("s of grace", lambda o: pod(o).update(terminationGracePeriodSeconds=20)),
        ("refuses calls before", lambda o: without(container(o), "lifecycle")),
    ],
    "no service links, no API token": [
        ("enableServiceLinks", lambda o: without(pod(o), "enableServiceLinks")),
        ("automountServiceAccountToken", lambda o: pod(o).update(automountServiceAccountToken=True)),
    ],
    "environment names are settings": [
        ("KLINECAST_LOG_LEVL is no setting", lambda o: environment(o, "data", LOG_LEVL="info")),
        ("log_level", lambda o: environment(o, "data", LOG_LEVEL="loud")),
        ("KEY_FILE is required", lambda o: settings(o).pop("KLINECAST_TLS__KEY_FILE")),
    ],
    "addresses are the named ports": [
        ("KLINECAST_LISTEN is not port grpc", lambda o: environment(o, "data", LISTEN="0.0.0.0:50099")),
        ("on all addresses", lambda o: environment(o, "data", METRICS_LISTEN="127.0.0.1:9101")),
        ("neither TLS", lambda o: settings(o).pop("KLINECAST_TLS__CERTIFICATE_FILE")),
        (
            "neither TLS",
            lambda o: [settings(o).pop(f"KLINECAST_AUTH__{name}_FILE") for name in ("JWKS", "TOKENS")],
        ),
    ],
    "images are pinned": [
        ("no fixed tag", lambda o: container(o).update(image="klinecast:latest")),
    ],
    "there is a /tmp": [
        ("klinecast-worker/worker: cannot write", lambda o: unmount(container(o, "worker"), "/tmp")),
        ("klinecast-migrations/data: cannot write", lambda o: unmount(job(o)["spec"]["containers"][0], "/tmp")),
    ],
    "selectors match": [
        ("does not match its own", lambda o: spec(o, "Deployment", "data")["selector"].update(matchLabels={"a": "b"})),
        ("is nobody's", lambda o: spec(o, "Service", "data")["ports"][0].update(targetPort="grcp")),
        ("selects no pod", lambda o: spec(o, "NetworkPolicy", "to-dns")["podSelector"].update(matchLabels={"a": "b"})),
        ("asks for its ports ['metrcs']", lambda o: endpoint(o).update(port="metrcs")),
        ("klinecast-worker: Prometheus asks", lambda o: o.of("PodMonitor")[0]["spec"].update(selector=only("data"))),
    ],
    "services are headless": [
        ("is not headless", lambda o: spec(o, "Service", "data").update(clusterIP="10.0.0.1")),
        ("is not dns:///", lambda o: environment(o, "backtest", DATA_TARGET="klinecast-data:50051")),
        ("nothing translates its port 443", lambda o: serve_at(o, "data", 443)),
    ],
    "disruption is bounded": [
        ("0 disruption budgets", lambda o: drop(o, "PodDisruptionBudget", "data")),
        ("lets no pod go", lambda o: spec(o, "PodDisruptionBudget", "data").update(maxUnavailable=0)),
        (
            "a rollout takes pods away",
            lambda o: spec(o, "Deployment", "data")["strategy"]["rollingUpdate"].update(maxUnavailable=1),
        ),
        ("may be over before", lambda o: without(spec(o, "Deployment", "data"), "minReadySeconds")),
        ("is not spread", lambda o: without(pod(o), "topologySpreadConstraints")),
    ],
    "scalers are in order": [
        ("at least 9", lambda o: spec(o, "HorizontalPodAutoscaler", "data").update(minReplicas=9, maxReplicas=2)),
        ("each apply of", lambda o: spec(o, "Deployment", "data").update(replicas=2)),
        ("is not there", lambda o: spec(o, "ScaledObject", "worker")["scaleTargetRef"].update(name="nobody")),
        ("ever lets run", lambda o: spec(o, "ScaledObject", "worker").update(maxReplicaCount=500)),
        (
            "klinecast_backtest_queue_age_second: no process",
            lambda o: query(o, "max(klinecast_backtest_queue_age_second)"),
        ),
        ("aims at 7000 %", lambda o: cpu_target(o, "data").update(averageUtilization=7000)),
    ],
    "references exist": [
        ("key urll is not in", lambda o: _secret_of(o)["secretKeyRef"].update(key="urll")),
        ("Secret another key", lambda o: _secret_of(o)["secretKeyRef"].update(name="another")),
        ("no ServiceAccount", lambda o: drop(o, "ServiceAccount", "data")),
        ("no ConfigMap", lambda o: container(o)["envFrom"][0]["configMapRef"].update(name="nothing")),
        ("no TriggerAuthentication", lambda o: drop(o, "TriggerAuthentication", "prometheus")),
        ("no volume", lambda o: container(o)["volumeMounts"].append({"name": "x", "mountPath": "/x"})),
    ],
    "no secrets in git": [
        ("a Secret in git", lambda o: o.all.append({"kind": "Secret", "metadata": {"name": "x"}})),  # type: ignore[attr-defined]
        ("has a value in git", lambda o: environment(o, "data", DATABASE__URL="postgresql://u:p@h/d")),
    ],
    "the network is closed": [
        ("no default", lambda o: drop(o, "NetworkPolicy", "default-deny")),
        ("names no peer", lambda o: without(spec(o, "NetworkPolicy", "to-postgres")["egress"][0], "to")),
        (
            "names no peer",
            lambda o: spec(o, "NetworkPolicy", "to-postgres")["egress"][0].update(to=EVERYBODY),
        ),
        ("needs [", lambda o: drop(o, "NetworkPolicy", "to-postgres")),
        (
            "which is nobody's",
            lambda o: spec(o, "NetworkPolicy", "from-callers")["ingress"][0].update(ports=[{"port": 1}]),
        ),
        (
            "klinecast-data: port 50051 is shut to klinecast-worker",
            lambda o: drop(o, "NetworkPolicy", "data-from-backtests"),
        ),
        ("klinecast-results: port 50053 is shut to {", lambda o: drop(o, "NetworkPolicy", "from-callers")),
        ("klinecast-worker: port 9104 is shut to {", lambda o: drop(o, "NetworkPolicy", "from-prometheus")),
        ("klinecast-data: lets {", lambda o: without(callers(o), "namespaceSelector", "matchLabels")),
        ("klinecast-data: lets {", lambda o: callers(o).pop("podSelector")),
        ("port 50051 of nobody is not", lambda o: data_peer(o)["podSelector"].update(only("nobody"))),
        ("port 50051 of klinecast-results is not", lambda o: data_peer(o)["podSelector"].update(only("results"))),
        (
            "is not what answers there",
            lambda o: spec(o, "NetworkPolicy", "to-dns")["egress"][0]["to"][0].update(podSelector=only("dns")),
        ),
        (
            "klinecast-migrations: reaches [53], needs [53, 5432]",
            lambda o: without(job(o), "metadata", "labels", "klinecast.io/uses-postgres"),
        ),
        (
            "klinecast-backtest: reaches",
            lambda o: spec(o, "Deployment", "backtest")["template"]["metadata"]["labels"].pop(
                "klinecast.io/uses-broker"
            ),
        ),
    ],
    "databases are migrated, each its own": [
        ("klinecast-migrations/data: has the database of klinecast-results-database", lambda o: mix_up(job(o)["spec"])),
        ("klinecast-worker/worker: has the database", lambda o: mix_up(pod(o, "worker"))),
        ("no Job migrates services.data", lambda o: drop(o, "Job", "migrations")),
        ("no Job migrates services.results by", lambda o: job(o)["spec"]["containers"].pop()),
        ("no Job migrates services.data by klinecast:2", lambda o: container(o).update(image="klinecast:2")),
    ],
    "files of settings are mounted": [
        ("tls.pem", lambda o: settings(o).update(KLINECAST_TLS__CERTIFICATE_FILE="/etc/klinecast/tls/tls.pem")),
        ("klinecast-worker: KLINECAST_CLIENT__TOKEN_FILE", lambda o: container(o, "worker")["volumeMounts"].pop()),
    ],
    "the suite may call itself": [
        ("klinecast-worker: calls", lambda o: settings(o).pop("KLINECAST_CLIENT__CERTIFICATE_FILE")),
        ("KLINECAST_CLIENT__CA_FILE", lambda o: settings(o).pop("KLINECAST_CLIENT__CA_FILE")),
        ("KLINECAST_CLIENT__TOKEN_FILE", lambda o: settings(o).pop("KLINECAST_CLIENT__TOKEN_FILE")),
    ],
    "schemas of Kubernetes": [
        ("Deployment klinecast-data", lambda o: container(o).update(imagePullPolice="Always")),
        ("Service klinecast-data", lambda o: spec(o, "Service", "data")["ports"][0].update(port="grpc")),
    ],
    "models of the operators' kinds": [
        ("maxReplicas", lambda o: spec(o, "ScaledObject", "worker").update(maxReplicas=3)),
        ("threshold", lambda o: spec(o, "ScaledObject", "worker")["triggers"][0]["metadata"].update(threshold="many")),
        ("minReplicaCount", lambda o: spec(o, "ScaledObject", "worker").update(minReplicaCount=-1)),
        ("podMetricsEndpoints", lambda o: without(o.of("PodMonitor")[0]["spec"], "podMetricsEndpoints")),
    ],
}
CHECKS = {
    **pods.CHECKS,
    **cluster.CHECKS,
    **network.CHECKS,
    **databases.CHECKS,
    **trust.CHECKS,
    "schemas of Kubernetes": check_kubernetes,
    "models of the operators' kinds": check_operators,
}
CASES = [(check, said, plant) for check, faults in FAULTS.items() for said, plant in faults]


def _secret_of(objects: Objects) -> Object:
    [found] = [one["valueFrom"] for one in container(objects)["env"] if one["name"] == "KLINECAST_DATABASE__URL"]
    return found  # type: ignore[no-any-return]


def test_every_check_has_a_fault_that_it_finds() -> None:
    assert set(FAULTS) == set(CHECKS)


@pytest.mark.parametrize("check", sorted(CHECKS))
def test_what_is_there_has_no_fault(objects: Objects, check: str) -> None:
    assert CHECKS[check](objects) == []


@pytest.mark.parametrize(("check", "said", "plant"), CASES, ids=[f"{check}: {said}" for check, said, _ in CASES])
def test_a_planted_fault_is_found(objects: Objects, check: str, said: str, plant: Plant) -> None:
    plant(objects)
    assert said in "\n".join(CHECKS[check](objects))


def test_the_memory_alert_knows_when_a_limit_changes(objects: Objects) -> None:
    assert check_memory_alert(objects, load_rules()) == []
    container(objects)["resources"]["limits"]["memory"] = "4Gi"
    assert "klinecast-data has a limit of 4294967296" in check_memory_alert(objects, load_rules())[0]


def test_a_missing_tool_is_a_fault() -> None:
    assert "promtol is not installed" in run_tool("promtol", "check", "rules")[0]


def test_connections_are_counted_anew_when_more_pods_may_run(objects: Objects) -> None:
    operations = OPERATIONS.read_text()
    assert databases.check_connections(objects, operations) == []
    spec(objects, "HorizontalPodAutoscaler", "data").update(maxReplicas=9)
    assert "343 connections, it says 329" in databases.check_connections(objects, operations)[0]


def test_alerts_that_read_nothing_or_are_not_explained_are_found() -> None:
    rules, operations, tests = load_rules(), OPERATIONS.read_text(), RULES_TEST.read_text()
    assert check_metrics(["rate(klinecast_backtest_backtest_total[5m])"], set()) == [
        "klinecast_backtest_backtest_total: no process exports it"
    ]
    invented = [*rules, {"alert": "KlinecastInvented", "annotations": {"runbook": "docs/operations.md#other"}}]
    assert check_runbooks(rules, operations) == check_tested(rules, tests) == []
    assert len(check_runbooks(invented, operations)) == 2
    assert "KlinecastQueueOld: is explained, and no alert" in check_runbooks(
        [one for one in rules if one.get("alert") != "KlinecastQueueOld"], operations
    )
    assert "KlinecastInvented" in check_tested(invented, tests)[0]


def test_a_dashboard_that_shows_too_little_or_twice_is_found() -> None:
    dashboard: dict[str, Any] = load_dashboard()
    shown = dashboard_expressions(dashboard)
    assert check_topics(shown) == check_panels(dashboard) == []
    assert "no panel shows queue age" in check_topics([one for one in shown if "queue_age" not in one])
    doubled = json.loads(json.dumps(dashboard))
    doubled["panels"].append(doubled["panels"][-1])
    assert len(check_panels(doubled)) == 2


@pytest.mark.parametrize(
    ("said", "plant"),
    [
        ("open to other machines", lambda services: services["data"].update(ports=["50051:50051"])),
        ("KLINECAST_LISTN is no setting", lambda services: services["data"]["environment"].update(KLINECAST_LISTN="x")),
        ("is killed before", lambda services: services["worker"].update(stop_grace_period="5s")),
        ("may write to its root", lambda services: services["worker"].update(read_only=False)),
        ("no fixed tag", lambda services: services["valkey"].update(image="valkey/valkey:latest")),
        ("has a password in git", lambda services: services["postgres"]["environment"].update(POSTGRES_PASSWORD="x")),
        ("prometheus is missing", lambda services: services.pop("prometheus")),
        ("waits for", lambda services: services["data"].update(depends_on={"nobody": {}})),
        ("worker: not two", lambda services: services["worker"].update(deploy={"replicas": 1})),
    ],
)
def test_a_fault_of_compose_is_found(said: str, plant: Callable[[dict[str, Any]], object]) -> None:
    compose = copy.deepcopy(load_compose())
    assert check_compose(compose) == []
    plant(compose["services"])
    assert said in "\n".join(check_compose(compose))
