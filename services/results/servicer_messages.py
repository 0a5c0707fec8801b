"""Results, listings and policies as protobuf messages; the servicer's words."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration

from klinecast.api.results.v1 import comparison_pb2, result_pb2, retention_pb2
from klinecast.api.results.v1 import results_service_pb2 as pb
from klinecast.convert.market import INTERVAL_FROM_PROTO, MARKET_TYPE_FROM_PROTO, page_size_from_proto, series_key_parts
from klinecast.convert.violations import Violations
from klinecast.errors import NotFound
from services.results.comparing import compare_documents, compare_statistics
from services.results.keeping import Listing
from services.results.retention import AuditListing, AuditRecord, Policy, Reason, Taken, Usage
from services.results.saving import Commit, ResultKey, StoredResult
from services.runtime.paging import Cursor, read_page_token, require_id, require_text

_NUMBERS = ("initial_cash", "final_equity", "kline_count", "trade_rows", "fill_rows", "ambiguous_klines")
"""Of the header: one may order and filter by them as by statistics."""
_MOST_BOUNDS = 20
_LONGEST_FILTER = 256
_TIMES = ("created_from", "created_before", "range_from", "range_before")


def result_to_proto(stored: StoredResult) -> result_pb2.Result:
    """Convert the row of a result."""
    proto = result_pb2.Result(pinned=stored.pinned, stored_bytes=stored.stored_bytes)
    proto.header.ParseFromString(stored.header)
    proto.create_time.FromDatetime(stored.create_time)
    proto.last_read_time.FromDatetime(stored.last_read_time)
    if not stored.pinned:
        proto.expire_time.FromDatetime(stored.expire_time)
    return proto


def commit_from_proto(
    begin: pb.SaveResultBegin, key: ResultKey, *, save_id: str, checksum: str, payload_bytes: int
) -> Commit:
    """Read what makes a save a result."""
    header, config = begin.header, begin.header.config
    wire = header.SerializeToString(deterministic=True)
    numbers = {name: getattr(header, name) for name in _NUMBERS}
    return Commit(
        key=key,
        save_id=save_id,
        fence=begin.fence,
        ttl_s=seconds(begin.ttl) if begin.HasField("ttl") else None,
        checksum=checksum,
        header=wire,
        strategy=config.strategy,
        series=[series_key_parts(one) for one in config.series],
        start_time=_datetime(config, "start_time"),
        end_time=_datetime(config, "end_time"),
        labels=dict(config.labels),
        statistics={name: value for name, value in numbers.items() if math.isfinite(value)} | dict(header.statistics),
        row_count=header.trade_rows + header.fill_rows + header.equity_rows,
        stored_bytes=payload_bytes + len(wire),
    )


def listing_from_proto(request: pb.ListResultsRequest, tenant: str) -> Listing:
    """Read which results to list. InvalidArgument."""
    found = Violations()
    page_size = page_size_from_proto(request, found, default=50)
    found.check(len(request.statistics) <= _MOST_BOUNDS, "statistics", f"must be at most {_MOST_BOUNDS}")
    for index, one in enumerate(request.statistics):
        found.check(bool(one.name), f"statistics[{index}].name", "is required")
        found.check_text(one.name, f"statistics[{index}].name", most=_LONGEST_FILTER)
        values = [getattr(one, end) for end in ("min", "max") if one.HasField(end)]
        found.check(all(map(math.isfinite, values)), f"statistics[{index}]", "must have finite bounds")
    series = {"venue": request.venue, "symbol": request.symbol}
    if request.market_type:
        known = found.check(request.market_type in MARKET_TYPE_FROM_PROTO, "market_type", "is no market type")
        series["market_type"] = MARKET_TYPE_FROM_PROTO[request.market_type].value if known else ""
    if request.interval:
        known = found.check(request.interval in INTERVAL_FROM_PROTO, "interval", "is no interval")
        series["interval"] = INTERVAL_FROM_PROTO[request.interval].value if known else ""
    for field in ("strategy", "venue", "symbol", "order_by"):
        found.check_text(getattr(request, field), field, most=_LONGEST_FILTER)
    found.check("\0" not in "".join([*request.labels, *request.labels.values()]), "labels", "must not hold NUL")
    times = {name: _checked_time(request, name, found) for name in _TIMES}
    found.raise_if_any()
    order_by = "" if request.order_by == "create_time" else request.order_by
    return Listing(
        strategy=request.strategy,
        series={name: value for name, value in series.items() if value},
        labels=dict(request.labels),
        **times,
        bounds=[_bounds(one) for one in request.statistics],
        order_by=order_by,
        ascending=request.ascending,
        page_size=page_size,
        after=read_page_token(request.page_token, tenant, list_name(request), partial(_list_place, bool(order_by))),
    )


def _list_place(by_statistic: bool, cursor: Cursor) -> Cursor:
    key, result_id = cursor
    if not by_statistic:
        key = _moment(key).isoformat()
    elif require_text(key) != repr(float(require_text(key))):  # Python reads more numbers than the database does
        raise ValueError
    return [key, require_id(result_id)]


def _audit_place(cursor: Cursor) -> tuple[dt.datetime, str]:
    time, result_id = cursor
    return _moment(time), require_id(result_id)


def _moment(value: str | int | float | None) -> dt.datetime:
    """Return a time of a cursor, in UTC: the database takes smaller offsets only than Python does."""
    return dt.datetime.fromisoformat(require_text(value)).astimezone(dt.UTC)


def list_name(request: pb.ListResultsRequest) -> str:
    """Name the list that a page token belongs to: another filter or order is another list."""
    asked = pb.ListResultsRequest()
    asked.CopyFrom(request)
    asked.ClearField("page_token")
    asked.ClearField("page_size")
    return f"results/{asked.SerializeToString(deterministic=True).hex()}"


def comparison_to_proto(stored: list[StoredResult]) -> pb.CompareResultsResponse:
    """Put results side by side."""
    results = [result_to_proto(one) for one in stored]
    headers = [one.header for one in results]
    statistics = compare_statistics([dict(one.statistics) for one in headers])
    response = pb.CompareResultsResponse(
        results=results,
        statistics=[comparison_pb2.StatisticRow(name=name, values=values) for name, values in statistics],
        differences=[
            comparison_pb2.Difference(path=path, values=values)
            for path, values in differences([one.header for one in stored])
        ],
    )
    response.read_time.FromDatetime(stored[0].read_time)
    return response


def differences(headers: Sequence[bytes]) -> list[tuple[str, list[str]]]:
    """Return where the configs and manifests of results differ."""
    return compare_documents([_document(result_pb2.ResultHeader.FromString(one)) for one in headers])


def total_rows(stored: StoredResult, kind: str) -> int:
    """Return how many rows of a kind a result has."""
    header = result_pb2.ResultHeader.FromString(stored.header)
    return {"trades": header.trade_rows, "fills": header.fill_rows, "equity": header.equity_rows}[kind]


def _document(header: result_pb2.ResultHeader) -> Mapping[str, object]:
    parts = (header.config, header.manifest)
    config, manifest = (json_format.MessageToDict(one, preserving_proto_field_name=True) for one in parts)
    return {"config": config, "manifest": manifest}


def policy_from_proto(proto: retention_pb2.RetentionPolicy) -> Policy:
    """Read a policy; nothing is checked."""
    ttls = {f"{name}_s": seconds(getattr(proto, name)) if proto.HasField(name) else None for name in _TTLS}  # type: ignore[arg-type]
    limits = {name: getattr(proto, name) if proto.HasField(name) else None for name in _LIMITS}  # type: ignore[arg-type]
    return Policy(**ttls, **limits)  # type: ignore[arg-type]


_TTLS = ("default_ttl", "min_ttl", "max_ttl")
_LIMITS = ("max_results", "max_bytes")


def policy_to_proto(policy: Policy) -> retention_pb2.RetentionPolicy:
    """Convert a policy in effect."""
    proto = retention_pb2.RetentionPolicy(max_results=policy.max_results, max_bytes=policy.max_bytes)
    for name in _TTLS:
        value: float | None = getattr(policy, f"{name}_s")
        if value is not None:
            getattr(proto, name).FromMicroseconds(round(value * 1e6))
    return proto


def usage_to_proto(usage: Usage) -> retention_pb2.RetentionUsage:
    """Convert what is kept."""
    return retention_pb2.RetentionUsage(
        results=usage.results,
        bytes=usage.bytes,
        pinned_results=usage.pinned_results,
        pinned_bytes=usage.pinned_bytes,
    )


def losses_to_proto(taken: Taken) -> list[retention_pb2.RetentionLoss]:
    """Convert what would go."""
    return [
        retention_pb2.RetentionLoss(reason=int(reason), results=results, bytes=size)  # type: ignore[arg-type]
        for reason, (results, size) in taken.by_reason.items()
    ]


def audit_listing_from_proto(request: pb.ListRetentionAuditRequest, tenant: str) -> AuditListing:
    """Read which records to list. InvalidArgument."""
    found = Violations()
    page_size = page_size_from_proto(request, found, default=100)
    known = not request.reason or int(request.reason) in tuple(map(int, Reason))
    found.check(known, "reason", "is no reason")
    found.raise_if_any()
    after = read_page_token(request.page_token, tenant, f"audit/{request.reason}", _audit_place)
    return AuditListing(reason=Reason(request.reason) if request.reason else None, page_size=page_size, after=after)


def audit_to_proto(record: AuditRecord) -> retention_pb2.RetentionAuditRecord:
    """Convert a result that went."""
    proto = retention_pb2.RetentionAuditRecord(
        result_id=record.result_id,
        strategy=record.strategy,
        reason=int(record.reason),  # type: ignore[arg-type]
        stored_bytes=record.stored_bytes,
    )
    proto.create_time.FromDatetime(record.create_time)
    proto.delete_time.FromDatetime(record.delete_time)
    return proto


def result_not_found(result_id: str) -> NotFound:
    """Return the error of a result that is not there, expired or another tenant's."""
    return NotFound(f"no result {result_id}", reason="RESULT_NOT_FOUND")


def seconds(duration: Duration) -> float:
    """Return a duration in seconds."""
    return duration.seconds + duration.nanos / 1e9


def _bounds(one: pb.StatisticBounds) -> dict[str, str | float | None]:
    return {
        "name": one.name,
        "min": one.min if one.HasField("min") else None,
        "max": one.max if one.HasField("max") else None,
    }


def _datetime(message: Any, name: str) -> dt.datetime | None:
    if not message.HasField(name):
        return None
    stamp: dt.datetime = getattr(message, name).ToDatetime(tzinfo=dt.UTC)
    return stamp


def _checked_time(message: Any, name: str, found: Violations) -> dt.datetime | None:
    try:
        return _datetime(message, name)
    except (ValueError, OverflowError):
        found.add(name, "must be an instant of the years 1..9999")
        return None
