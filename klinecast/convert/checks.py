"""Requests and answers of CheckSeries: protobuf <-> types."""

from __future__ import annotations

from dataclasses import dataclass

from klinecast.api.data.v1 import data_service_pb2 as pb
from klinecast.api.data.v1 import finding_pb2
from klinecast.convert.data import MAX_BATCH_SIZE, KlineQuery, open_range_from_proto
from klinecast.convert.market import series_from_proto
from klinecast.convert.violations import Violations
from klinecast.models import CheckReport, Finding, FindingCount, FindingKind

DEFAULT_JUMP_BOUND = 0.2
DEFAULT_ZERO_VOLUME_KLINES = 10
DEFAULT_MAX_FINDINGS = 100


@dataclass(frozen=True, slots=True)
class CheckQuery:
    """A CheckSeriesRequest, checked and with its defaults filled in."""

    klines: KlineQuery
    """What to read: close and volume of a stored series."""
    jump_bound: float
    """A close further from the close before is a jump, as a fraction."""
    zero_volume_klines: int
    """Shortest run without volume to report."""
    max_findings: int
    """Most findings of a kind to keep."""


def check_from_proto(proto: pb.CheckSeriesRequest) -> CheckQuery:
    """Convert a request; raise InvalidArgument naming every bad field."""
    found = Violations()
    key = series_from_proto(proto.series, "series", found)
    start_ms, end_ms = open_range_from_proto(proto, found)
    jump = proto.jump_bound if proto.HasField("jump_bound") else DEFAULT_JUMP_BOUND
    quiet = proto.zero_volume_klines if proto.HasField("zero_volume_klines") else DEFAULT_ZERO_VOLUME_KLINES
    most = proto.max_findings if proto.HasField("max_findings") else DEFAULT_MAX_FINDINGS
    found.check(0.001 <= jump <= 100, "jump_bound", "must be 0.001..100")
    found.check(1 <= quiet <= 1_000_000, "zero_volume_klines", "must be 1..1,000,000")
    found.check(1 <= most <= 1000, "max_findings", "must be 1..1,000")
    found.raise_if_any()
    assert key is not None
    klines = KlineQuery(
        key=key,
        start_ms=start_ms,
        end_ms=end_ms,
        batch_size=MAX_BATCH_SIZE,
        columns=("close", "volume"),
        resume_from_ms=start_ms,
        expected_revision=None,
        source_interval=key.interval,
    )
    return CheckQuery(klines, jump, quiet, most)


def check_to_proto(report: CheckReport) -> pb.CheckSeriesResponse:
    """Convert what was found."""
    return pb.CheckSeriesResponse(
        kline_count=report.kline_count,
        revision=report.revision,
        findings=[
            finding_pb2.Finding(
                kind=_kind_to_proto(one.kind),
                first_open_time_ms=one.first_open_time_ms,
                last_open_time_ms=one.last_open_time_ms,
                kline_count=one.kline_count,
                change=one.change,
                reason=one.reason,
            )
            for one in report.findings
        ],
        counts=[
            finding_pb2.FindingCount(kind=_kind_to_proto(kind), findings=count.findings, klines=count.klines)
            for kind, count in report.counts.items()
        ],
    )


def check_report(proto: pb.CheckSeriesResponse) -> CheckReport:
    """Convert an answer."""
    findings = tuple(
        Finding(
            _kind_from_proto(one.kind),
            one.first_open_time_ms,
            one.last_open_time_ms,
            one.kline_count,
            one.change if one.HasField("change") else None,
            one.reason,
        )
        for one in proto.findings
    )
    counts = {_kind_from_proto(one.kind): FindingCount(one.findings, one.klines) for one in proto.counts}
    return CheckReport(proto.kline_count, proto.revision, findings, counts)


def _kind_to_proto(kind: FindingKind) -> finding_pb2.FindingKind.ValueType:
    return finding_pb2.FindingKind.Value(f"FINDING_KIND_{kind.name}")


def _kind_from_proto(number: finding_pb2.FindingKind.ValueType) -> FindingKind:
    return FindingKind(finding_pb2.FindingKind.Name(number).removeprefix("FINDING_KIND_"))
