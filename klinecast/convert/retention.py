"""Retention and comparisons: protobuf <-> the values the SDK takes and returns."""

from __future__ import annotations

import math

from google.protobuf.duration_pb2 import Duration

from klinecast import retention as models
from klinecast.api.results.v1 import results_service_pb2 as pb
from klinecast.api.results.v1 import retention_pb2
from klinecast.convert.market import (
    INTERVAL_TO_PROTO,
    MARKET_TYPE_TO_PROTO,
    timestamp_from_proto,
    timestamp_to_proto,
)
from klinecast.convert.models import optional_field, result

_TTLS = ("default_ttl", "min_ttl", "max_ttl")


def duration_to_proto(seconds: float) -> Duration:
    """Convert seconds, exact to a microsecond."""
    duration = Duration()
    duration.FromMicroseconds(round(seconds * 1e6))
    return duration


def policy_to_proto(policy: models.RetentionPolicy) -> retention_pb2.RetentionPolicy:
    """Convert a policy."""
    proto = retention_pb2.RetentionPolicy(max_results=policy.max_results, max_bytes=policy.max_bytes)
    for name in _TTLS:
        value: float | None = getattr(policy, f"{name}_s")
        if value is not None:
            getattr(proto, name).CopyFrom(duration_to_proto(value))
    return proto


def policy_from_proto(proto: retention_pb2.RetentionPolicy) -> models.RetentionPolicy:
    """Convert a policy."""
    ttls = {
        f"{name}_s": getattr(proto, name).ToMicroseconds() / 1e6 if proto.HasField(name) else None  # type: ignore[arg-type]
        for name in _TTLS
    }
    limits = {name: optional_field(proto, name) for name in ("max_results", "max_bytes")}
    return models.RetentionPolicy(**ttls, **limits)  # type: ignore[arg-type]


def usage_from_proto(proto: retention_pb2.RetentionUsage) -> models.RetentionUsage:
    """Convert what is kept."""
    return models.RetentionUsage(proto.results, proto.bytes, proto.pinned_results, proto.pinned_bytes)


def preview_from_proto(proto: pb.PreviewRetentionResponse) -> models.RetentionPreview:
    """Convert what would go."""
    losses = {_reason(one.reason): (one.results, one.bytes) for one in proto.losses}
    return models.RetentionPreview(losses, tuple(proto.result_ids), usage_from_proto(proto.kept))


def audit_record_from_proto(proto: retention_pb2.RetentionAuditRecord) -> models.AuditRecord:
    """Convert a result that went."""
    return models.AuditRecord(
        proto.result_id,
        proto.strategy,
        _reason(proto.reason),
        proto.stored_bytes,
        timestamp_from_proto(proto.create_time),
        timestamp_from_proto(proto.delete_time),
    )


def reason_to_proto(reason: str) -> int:
    """Convert the name of a reason; ValueError for a stranger."""
    return retention_pb2.RetentionReason.Value(f"RETENTION_REASON_{reason.upper()}")


def comparison_from_proto(proto: pb.CompareResultsResponse) -> models.ResultComparison:
    """Convert results side by side."""
    statistics = {
        row.name: tuple(None if math.isnan(value) else value for value in row.values) for row in proto.statistics
    }
    differences = {one.path: tuple(one.values) for one in proto.differences}
    return models.ResultComparison(tuple(map(result, proto.results)), statistics, differences)


def filter_to_proto(wanted: models.ResultFilter) -> pb.ListResultsRequest:
    """Convert which results to list."""
    request = pb.ListResultsRequest(
        strategy=wanted.strategy,
        venue=wanted.venue,
        symbol=wanted.symbol,
        labels=dict(wanted.labels),
        order_by=wanted.order_by,
        ascending=wanted.ascending,
        statistics=[
            pb.StatisticBounds(name=name, min=low, max=high) for name, (low, high) in wanted.statistics.items()
        ],
    )
    if wanted.market_type is not None:
        request.market_type = MARKET_TYPE_TO_PROTO[wanted.market_type]
    if wanted.interval is not None:
        request.interval = INTERVAL_TO_PROTO[wanted.interval]
    for name in ("created_from", "created_before", "range_from", "range_before"):
        value: int | None = getattr(wanted, f"{name}_ms")
        if value is not None:
            getattr(request, name).CopyFrom(timestamp_to_proto(value))
    return request


def _reason(number: int) -> str:
    return retention_pb2.RetentionReason.Name(number).removeprefix("RETENTION_REASON_")  # type: ignore[arg-type]
