"""Checks of the network: everything is denied but what is named, and what one end opens the other lets in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TypeAlias

from tests.k8s.objects import Object, Objects, Pod, matches
from tests.k8s.pods import SERVICES, deployables

_CALLED_BY_BACKTESTS = {50051, 50053}
REACH = {
    "services.data": {4317},
    "services.results": {4317},
    "services.backtest": {4317} | _CALLED_BY_BACKTESTS,
    "services.backtest.worker": {4317} | _CALLED_BY_BACKTESTS,
}
"""The ports each opens connections to; those that are told where Postgres or the broker is also 5432 or 6379."""
_SETTINGS = {"KLINECAST_DATABASE__URL": {53, 5432}, "KLINECAST_BROKER_URL": {53, 6379}}
_NAMESPACE = "kubernetes.io/metadata.name"


def _outside(namespace: dict[str, str], pod: dict[str, str]) -> str:
    return _spell({"namespaceSelector": {"matchLabels": namespace}, "podSelector": {"matchLabels": pod}})


def _spell(peer: Object) -> str:
    return json.dumps(peer, sort_keys=True)


CALLERS = _outside({"klinecast.io/callers": "true"}, {"klinecast.io/caller": "true"})
PROMETHEUS = _outside({_NAMESPACE: "monitoring"}, {"app.kubernetes.io/name": "prometheus"})
OUTSIDE = {
    53: _outside({_NAMESPACE: "kube-system"}, {"k8s-app": "kube-dns"}),
    4317: _outside({_NAMESPACE: "monitoring"}, {"app.kubernetes.io/name": "opentelemetry-collector"}),
}
"""Who answers at a port that is none of the suite's, where it is no address (`ipBlock`)."""
NOBODY = "nobody"
Ends: TypeAlias = set[tuple[str, int]]
"""Who is at the other end, a workload's name or a peer outside the namespace, and the port that is opened."""


def check_network(objects: Objects) -> list[str]:
    """Everything is denied but what is named; each component reaches what it needs and is reached, nothing else."""
    policies = objects.of("NetworkPolicy")
    denials = [one for one in policies if one["spec"]["podSelector"] == {} and len(one["spec"]) == 2]
    is_closed = any(set(one["spec"]["policyTypes"]) == {"Ingress", "Egress"} for one in denials)
    problems = [] if is_closed else ["no default"]
    for one in policies:
        for way, peer in (("ingress", "from"), ("egress", "to")):
            for rule in one["spec"].get(way, []):
                if not rule.get(peer) or not rule.get("ports") or not all(map(_is_named, rule[peer])):
                    problems.append(f"{one['metadata']['name']}: {way} names no peer or no port")
    return problems or [*_exit_faults(objects), *_entrance_faults(objects)]


def _is_named(peer: Object) -> bool:
    if "ipBlock" in peer:
        return int(peer["ipBlock"]["cidr"].rpartition("/")[2]) >= 16
    return any(selector for selector in peer.values())


def _exit_faults(objects: Objects) -> Iterator[str]:
    listening = {pod.owner: set(pod.ports.values()) for pod in objects.pods()} | {NOBODY: set()}
    modules = {pod.owner: module for pod, _, module in deployables(objects)}
    for pod in objects.pods():
        exits = _exits(objects, pod)
        wanted = REACH.get(modules.get(pod.owner, ""), set()) | _told(objects, pod)
        if (reached := {port for _, port in exits}) != wanted:
            yield f"{pod.owner}: reaches {sorted(reached)}, needs {sorted(wanted)}"
        for peer, port in sorted(exits):
            is_stranger = "ipBlock" not in peer and OUTSIDE.get(port, peer) != peer
            if is_stranger or port not in listening.get(peer, {port}):
                yield f"{pod.owner}: port {port} of {peer} is not what answers there"


def _told(objects: Objects, pod: Pod) -> set[int]:
    named = {name for one in pod.containers for name in objects.environment(one)}
    return {port for name, ports in _SETTINGS.items() if name in named for port in ports}


def _entrance_faults(objects: Objects) -> Iterator[str]:
    modules = {pod.owner: module for pod, _, module in deployables(objects)}
    for pod in objects.pods():
        wanted = {
            (other.owner, port)
            for other in objects.pods()
            for peer, port in _exits(objects, other)
            if peer == pod.owner
        }
        if modules.get(pod.owner) in SERVICES:
            wanted.add((CALLERS, pod.ports["grpc"]))
        if pod.owner in modules:
            wanted.add((PROMETHEUS, pod.ports["metrics"]))
        entrances = _entrances(objects, pod)
        yield from (f"{pod.owner}: port {port} is shut to {peer}" for peer, port in sorted(wanted - entrances))
        for peer, port in sorted(entrances - wanted):
            yield f"{pod.owner}: lets {peer} to port {port}, which is nobody's"


def _exits(objects: Objects, pod: Pod) -> Ends:
    return {
        (end, port["port"])
        for rule in _rules(objects, pod, "egress")
        for peer in rule["to"]
        for end in _ends(objects, peer) or [NOBODY]
        for port in rule["ports"]
    }


def _entrances(objects: Objects, pod: Pod) -> Ends:
    """Return who may come in; nowhere but to a port that the pod has, and pods without ports listen nowhere."""
    return {
        (end, pod.ports.get(port["port"], port["port"]))
        for rule in _rules(objects, pod, "ingress")
        for peer in rule["from"]
        for end in _ends(objects, peer)
        for port in rule["ports"]
        if pod.ports
    }


def _rules(objects: Objects, pod: Pod, way: str) -> Iterator[Object]:
    for one in objects.of("NetworkPolicy"):
        if matches(one["spec"]["podSelector"], pod.labels):
            yield from one["spec"].get(way, [])


def _ends(objects: Objects, peer: Object) -> list[str]:
    """Return the workloads a peer means; one outside the namespace stays as it is spelt."""
    if set(peer) != {"podSelector"}:
        return [_spell(peer)]
    return [pod.owner for pod in objects.pods() if matches(peer["podSelector"], pod.labels)]


CHECKS = {"the network is closed": check_network}
