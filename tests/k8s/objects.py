"""Kubernetes objects as mappings: where they come from, and what is found inside them. Judges nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
OVERLAYS = ("local", "production")
WORKLOADS = ("Deployment", "StatefulSet", "Job")
Object: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pod:
    """The pods of one workload."""

    owner: str
    """The name of the workload."""
    labels: Mapping[str, str]
    spec: Object

    @property
    def containers(self) -> list[Object]:
        """Every container, those that run before it included."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def ports(self) -> dict[str, int]:
        """The ports of all its containers by their name."""
        return {port["name"]: port["containerPort"] for one in self.containers for port in one.get("ports", [])}


@dataclass(frozen=True, slots=True)
class Objects:
    """What would be applied."""

    all: Sequence[Object]

    def of(self, kind: str) -> list[Object]:
        """Return the objects of a kind."""
        return [one for one in self.all if one["kind"] == kind]

    def named(self, kind: str, name: str) -> Object | None:
        """Return an object, None where there is none."""
        return next((one for one in self.of(kind) if one["metadata"]["name"] == name), None)

    def pods(self) -> Iterator[Pod]:
        """Yield the pods of every workload."""
        for kind in WORKLOADS:
            for one in self.of(kind):
                template = one["spec"]["template"]
                yield Pod(one["metadata"]["name"], template["metadata"]["labels"], template["spec"])

    def environment(self, container: Object) -> dict[str, str | None]:
        """Return a container's variables; the value of one that a Secret holds is None."""
        found: dict[str, str | None] = {}
        for source in container.get("envFrom", []):
            settings = self.named("ConfigMap", source["configMapRef"]["name"]) if "configMapRef" in source else None
            found |= (settings or {}).get("data", {})
        return found | {one["name"]: one.get("value") for one in container.get("env", [])}


def parse_objects(text: str) -> list[Object]:
    """Return the objects of a YAML text."""
    return [one for one in yaml.safe_load_all(text) if one]


def build_overlay(name: str) -> Objects:
    """Return what `kubectl apply -k` of an overlay would apply."""
    command = [find_tool("kubectl") or "kubectl", "kustomize", str(K8S / "overlays" / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise ValueError(done.stderr.strip())
    return Objects(parse_objects(done.stdout))


def find_tool(name: str) -> str | None:
    """Return the path of a program, of this environment first."""
    return shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


def matches(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Tell whether a label selector chooses these labels; the empty one chooses all, none chooses nothing."""
    if selector is None:
        return False
    fixed = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return fixed and all(_fits(one, labels) for one in selector.get("matchExpressions", []))


def _fits(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value, values = labels.get(expression["key"]), expression.get("values", [])
    match expression["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case _:
            return value is None


_FACTORS = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def quantity(text: str | int) -> float:
    """Return what a resource quantity such as 250m or 1Gi amounts to."""
    value = str(text)
    suffix = value.lstrip("0123456789.")
    return float(value.removesuffix(suffix)) * (_FACTORS[suffix] if suffix else 1)
