"""Whether each object has the shape its API wants: Kubernetes' own schemas, and models of the operators' kinds."""

from __future__ import annotations

import importlib
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from tests.k8s.objects import Object, Objects

KUBERNETES = "1.37"
Number = Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)?$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Target(_Strict):
    name: str
    kind: Literal["Deployment", "StatefulSet"] = "Deployment"
    apiVersion: str = "apps/v1"
    envSourceContainerName: str | None = None


class _Authentication(_Strict):
    name: str
    kind: Literal["TriggerAuthentication", "ClusterTriggerAuthentication"] = "TriggerAuthentication"


class _Query(_Strict):
    """Metadata of KEDA's prometheus scaler; its values are strings."""

    serverAddress: Annotated[str, StringConstraints(pattern=r"^https?://")]
    query: Annotated[str, StringConstraints(min_length=1)]
    threshold: Number
    activationThreshold: Number | None = None
    namespace: str | None = None
    authModes: str | None = None
    ignoreNullValues: Literal["true", "false"] | None = None
    unsafeSsl: Literal["true", "false"] | None = None
    timeout: Number | None = None


class _Trigger(_Strict):
    type: Literal["prometheus"]
    metadata: _Query
    name: str | None = None
    metricType: Literal["AverageValue", "Value"] = "AverageValue"
    authenticationRef: _Authentication | None = None
    useCachedMetrics: bool = False

    @model_validator(mode="after")
    def _authenticates(self) -> Self:
        if (self.metadata.authModes is not None) != (self.authenticationRef is not None):
            raise ValueError("authModes and authenticationRef come together")
        return self


class _Fallback(_Strict):
    failureThreshold: int = Field(ge=1)
    replicas: int = Field(ge=0)
    behavior: Literal["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"] = "static"


class _Policy(_Strict):
    type: Literal["Pods", "Percent"]
    value: int = Field(ge=1)
    periodSeconds: int = Field(ge=1, le=1800)


class _Rules(_Strict):
    stabilizationWindowSeconds: int | None = Field(default=None, ge=0, le=3600)
    selectPolicy: Literal["Max", "Min", "Disabled"] | None = None
    policies: list[_Policy] = []
    tolerance: str | None = None


class _Behavior(_Strict):
    scaleUp: _Rules | None = None
    scaleDown: _Rules | None = None


class _Horizontal(_Strict):
    name: str | None = None
    behavior: _Behavior | None = None


class _Advanced(_Strict):
    restoreToOriginalReplicaCount: bool = False
    horizontalPodAutoscalerConfig: _Horizontal | None = None


class ScaledObjectSpec(_Strict):
    """The spec of a KEDA ScaledObject."""

    scaleTargetRef: _Target
    pollingInterval: int = Field(default=30, ge=1)
    cooldownPeriod: int = Field(default=300, ge=0)
    initialCooldownPeriod: int = Field(default=0, ge=0)
    idleReplicaCount: int | None = None
    minReplicaCount: int = Field(default=0, ge=0)
    maxReplicaCount: int = Field(default=100, ge=1)
    fallback: _Fallback | None = None
    advanced: _Advanced | None = None
    triggers: list[_Trigger] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_ordered(self) -> Self:
        if self.minReplicaCount > self.maxReplicaCount:
            raise ValueError("minReplicaCount exceeds maxReplicaCount")
        if self.fallback is not None and any(one.metricType != "AverageValue" for one in self.triggers):
            raise ValueError("a fallback needs triggers of type AverageValue")
        return self


class _SecretKey(_Strict):
    parameter: str
    name: str
    key: str


class TriggerAuthenticationSpec(_Strict):
    """The spec of a KEDA TriggerAuthentication that takes its parameters from Secrets."""

    secretTargetRef: list[_SecretKey] = Field(min_length=1)


class _Endpoint(_Strict):
    port: str
    path: str = "/metrics"
    interval: str | None = None
    scrapeTimeout: str | None = None


class _Selector(_Strict):
    matchLabels: dict[str, str] = {}
    matchExpressions: list[dict[str, str | list[str]]] = []


class PodMonitorSpec(_Strict):
    """The spec of a PodMonitor, as much of it as is used here."""

    jobLabel: str | None = None
    selector: _Selector
    podMetricsEndpoints: list[_Endpoint] = Field(min_length=1)


class _Rule(_Strict):
    alert: str | None = None
    record: str | None = None
    expr: str
    for_: str | None = Field(default=None, alias="for")
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.alert is None) == (self.record is None):
            raise ValueError("a rule alerts or records")
        return self


class _Group(_Strict):
    name: str
    interval: str | None = None
    rules: list[_Rule]


class PrometheusRuleSpec(_Strict):
    """The spec of a PrometheusRule."""

    groups: list[_Group] = Field(min_length=1)


MODELS: dict[tuple[str, str], type[BaseModel]] = {
    ("keda.sh/v1alpha1", "ScaledObject"): ScaledObjectSpec,
    ("keda.sh/v1alpha1", "TriggerAuthentication"): TriggerAuthenticationSpec,
    ("monitoring.coreos.com/v1", "PodMonitor"): PodMonitorSpec,
    ("monitoring.coreos.com/v1", "PrometheusRule"): PrometheusRuleSpec,
}


def check_operators(objects: Objects) -> list[str]:
    """The kinds of KEDA and of the Prometheus operator, by their models."""
    problems = []
    for one in objects.all:
        if (model := MODELS.get((one["apiVersion"], one["kind"]))) is None:
            continue
        try:
            model.model_validate(one["spec"])
        except ValidationError as error:
            where = f"{one['kind']} {one['metadata']['name']}"
            problems += [f"{where}: {'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
    return problems


def check_kubernetes(objects: Objects) -> list[str]:
    """Kubernetes' own kinds, by its schemas, no unknown field allowed."""
    validator = importlib.import_module("kubernetes_validate")  # 108 MB of schemas: only `make k8s-check` installs it
    problems = []
    for one in objects.all:
        if (one["apiVersion"], one["kind"]) in MODELS:
            continue
        try:
            validator.validate(one, KUBERNETES, strict=True)
        except Exception as error:
            problems.append(_shape_fault(one, error))
    return problems


def _shape_fault(one: Object, error: Exception) -> str:
    return f"{one['kind']} {one['metadata']['name']}: {str(error).partition(chr(10))[0]}"
