"""The data service."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import grpc
import numpy as np

from klinecast.api.data.v1 import data_service_pb2 as pb
from klinecast.api.data.v1.data_service_pb2_grpc import DataServiceStub
from klinecast.api.market.v1 import interval_pb2
from klinecast.client._calls import Caller
from klinecast.columns import Column, encode_columns, parse_columns
from klinecast.convert import models as convert
from klinecast.convert.checks import check_report
from klinecast.convert.data import columns_to_proto
from klinecast.convert.market import INTERVAL_FROM_PROTO, INTERVAL_TO_PROTO, series_to_proto, timestamp_to_proto
from klinecast.errors import Aborted
from klinecast.interval import Interval
from klinecast.models import CheckReport, Gap, IngestSummary, KlineBatch, LoadedKlines, RangeSummary, SeriesSummary
from klinecast.series import SeriesKey
from klinecast.types import KlineColumns

MAX_BATCH = 32_768
_SERVICE = pb.DESCRIPTOR.services_by_name["DataService"].full_name
_LOAD_TRIES = 5
_OHLCV = ("open_time_ms", "open", "high", "low", "close", "volume")
_ON_INVALID = {"REJECT": pb.ON_INVALID_REJECT, "FAIL": pb.ON_INVALID_FAIL}
_GAP_POLICY = {"SKIP": pb.GAP_POLICY_SKIP, "FAIL": pb.GAP_POLICY_FAIL}


@dataclass(frozen=True, slots=True)
class KlineRange:
    """What to read."""

    series: SeriesKey
    start_ms: int
    end_ms: int
    batch_size: int = MAX_BATCH
    columns: Sequence[str] | None = None
    gap_policy: str = "SKIP"
    source_interval: Interval | None = None
    tenant: str | None = None
    """For whom, where a service reads."""

    def to_proto(self) -> pb.StreamKlinesRequest:
        """Convert."""
        source = self.source_interval
        return pb.StreamKlinesRequest(
            series=series_to_proto(self.series),
            start_time=timestamp_to_proto(self.start_ms),
            end_time=timestamp_to_proto(self.end_ms),
            batch_size=self.batch_size,
            columns=columns_to_proto(self.columns or ()),
            gap_policy=_GAP_POLICY[self.gap_policy],
            source_interval=INTERVAL_TO_PROTO[source] if source else interval_pb2.INTERVAL_UNSPECIFIED,
            implied_open_times=True,
        )


class DataCalls:
    """RPCs of DataService."""

    def __init__(self, channel: grpc.Channel, caller: Caller) -> None:
        self._stub = DataServiceStub(channel)
        self._caller = caller
        self._stream_klines = channel.unary_stream(
            f"/{_SERVICE}/StreamKlines",
            request_serializer=pb.StreamKlinesRequest.SerializeToString,
            response_deserializer=partial(parse_columns, pb.StreamKlinesResponse, "batch"),
        )

    def ingest(self, series: SeriesKey, batches: Iterable[Mapping[str, Column]], on_invalid: str) -> IngestSummary:
        """Send batches as one ingest."""
        requests = _ingest_requests(series, batches, on_invalid)
        return convert.ingest_summary(self._caller.upload(self._stub.IngestKlines, requests))

    def stream(self, wanted: KlineRange) -> Iterator[KlineBatch]:
        """Yield batches; a cut stream goes on where it was cut, at the same revision, without later appends."""
        for head, views, revision in self._messages(wanted):
            yield KlineBatch(
                {name: values.copy() for name, values in views.items()},
                head.next_open_time_ms,
                head.klines_sent,
                head.klines_total,
                revision,
            )

    def load(self, wanted: KlineRange) -> LoadedKlines:
        """Read a range whole, from the start again when it was rewritten meanwhile."""
        for attempt in range(_LOAD_TRIES):
            try:
                return self._load(wanted)
            except Aborted:
                if attempt == _LOAD_TRIES - 1:
                    raise
                time.sleep(0.05 * (attempt + 1))
        raise AssertionError("unreachable")

    def _load(self, wanted: KlineRange) -> LoadedKlines:
        """Copy each message straight into its place in arrays as long as the first message says they will be."""
        whole: dict[str, Column] = {}
        revision, source = 0, wanted.series.interval
        for head, columns, revision in self._messages(wanted):  # noqa: B007
            if not whole:
                memory = np.empty((len(columns), head.klines_total))  # one piece: fewer pages to fault in
                whole = {name: row.view(columns[name].dtype) for name, row in zip(columns, memory, strict=True)}
                source = INTERVAL_FROM_PROTO[head.source_interval]
            for name, values in columns.items():
                whole[name][head.klines_sent - len(values) : head.klines_sent] = values
        times, open_, high, low, close, volume = (whole[name] for name in _OHLCV)
        return LoadedKlines(KlineColumns(times, open_, high, low, close, volume), revision, source)

    def _messages(self, wanted: KlineRange) -> Iterator[tuple[pb.StreamKlinesResponse, Mapping[str, Column], int]]:
        """Yield each message without its columns, views of those, and the revision they are of."""
        request = wanted.to_proto()
        step_ms = wanted.series.interval.span_ms

        def from_last() -> Iterator[tuple[pb.StreamKlinesResponse, Mapping[str, Column]]]:
            return self._caller.stream(self._stream_klines, request, tenant=wanted.tenant)

        for head, views in self._caller.resuming(from_last):
            if not request.HasField("expected_revision"):
                request.expected_revision = head.revision
                request.source_interval = head.source_interval
                request.end_time.CopyFrom(timestamp_to_proto(min(wanted.end_ms, head.last_open_time_ms + 1)))
            request.resume_from_ms = head.next_open_time_ms
            if head.HasField("first_open_time_ms"):
                times = np.arange(head.first_open_time_ms, head.next_open_time_ms, step_ms, dtype=np.int64)
                views = {"open_time_ms": times, **views}
            yield head, views, request.expected_revision
            if head.klines_sent >= head.klines_total:
                return

    def get_range(self, wanted: KlineRange, indicators: Sequence[str]) -> RangeSummary:
        """Tell what a range holds."""
        stream = wanted.to_proto()
        request = pb.GetRangeRequest(
            series=stream.series,
            start_time=stream.start_time,
            end_time=stream.end_time,
            source_interval=stream.source_interval,
            indicators=indicators,
        )
        return convert.range_summary(self._caller.unary(self._stub.GetRange, request, tenant=wanted.tenant))

    def get_series(self, series: SeriesKey) -> SeriesSummary:
        """Get one series."""
        request = pb.GetSeriesRequest(series=series_to_proto(series))
        return convert.series_summary(self._caller.unary(self._stub.GetSeries, request).series)

    def list_series(self, venue: str, symbol: str) -> Iterator[SeriesSummary]:
        """Yield all series, page by page."""
        request = pb.ListSeriesRequest(venue=venue, symbol=symbol, page_size=1000)
        while True:
            page = self._caller.unary(self._stub.ListSeries, request)
            yield from map(convert.series_summary, page.series)
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    def list_gaps(self, series: SeriesKey, start_ms: int | None, end_ms: int | None) -> Iterator[Gap]:
        """Yield all gaps, page by page."""
        request = pb.ListGapsRequest(series=series_to_proto(series), page_size=1000)
        if start_ms is not None:
            request.start_time.CopyFrom(timestamp_to_proto(start_ms))
        if end_ms is not None:
            request.end_time.CopyFrom(timestamp_to_proto(end_ms))
        while True:
            page = self._caller.unary(self._stub.ListGaps, request)
            yield from map(convert.gap, page.gaps)
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    def check(
        self,
        series: SeriesKey,
        start_ms: int | None,
        end_ms: int | None,
        *,
        jump_bound: float,
        zero_volume_klines: int,
        max_findings: int,
    ) -> CheckReport:
        """Report what is doubtful."""
        request = pb.CheckSeriesRequest(
            series=series_to_proto(series),
            start_time=None if start_ms is None else timestamp_to_proto(start_ms),
            end_time=None if end_ms is None else timestamp_to_proto(end_ms),
            jump_bound=jump_bound,
            zero_volume_klines=zero_volume_klines,
            max_findings=max_findings,
        )
        return check_report(self._caller.unary(self._stub.CheckSeries, request))

    def delete(self, series: SeriesKey, start_ms: int, end_ms: int) -> int:
        """Delete a range; return how many klines went."""
        request = pb.DeleteKlinesRequest(
            series=series_to_proto(series),
            start_time=timestamp_to_proto(start_ms),
            end_time=timestamp_to_proto(end_ms),
        )
        return self._caller.unary(self._stub.DeleteKlines, request).deleted


def _ingest_requests(
    series: SeriesKey, batches: Iterable[Mapping[str, Column]], on_invalid: str
) -> Iterator[pb.IngestKlinesRequest]:
    request = pb.IngestKlinesRequest(series=series_to_proto(series), on_invalid=_ON_INVALID[on_invalid])
    for columns in batches:
        for start in range(0, len(columns["open_time_ms"]), MAX_BATCH):
            encode_columns(request.batch, {name: part[start : start + MAX_BATCH] for name, part in columns.items()})
            yield request
            request = pb.IngestKlinesRequest()
    if request.HasField("series"):
        yield request
