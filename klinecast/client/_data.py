"""The data service."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import grpc
import numpy as np

from klinecast.api.data.v1 import data_service_pb2 as pb
from klinecast.api.data.v1.data_service_pb2_grpc import DataServiceStub
from klinecast.api.market.v1 import kline_pb2
from klinecast.client._calls import Caller
from klinecast.client._errors import translated
from klinecast.columns import Column, encode_columns, read_columns
from klinecast.convert import models as convert
from klinecast.convert.market import series_to_proto, timestamp_to_proto
from klinecast.errors import Aborted
from klinecast.models import Gap, IngestSummary, KlineBatch, LoadedKlines, SeriesSummary
from klinecast.series import SeriesKey
from klinecast.types import KlineColumns

MAX_BATCH = 32_768
_LOAD_TRIES = 5
_OHLCV = ("open_time_ms", "open", "high", "low", "close", "volume")
_ON_INVALID = {"REJECT": pb.ON_INVALID_REJECT, "FAIL": pb.ON_INVALID_FAIL}
_GAP_POLICY = {"SKIP": pb.GAP_POLICY_SKIP, "FAIL": pb.GAP_POLICY_FAIL}


class DataCalls:
    """RPCs of DataService."""

    def __init__(self, channel: grpc.Channel, caller: Caller) -> None:
        self._stub = DataServiceStub(channel)
        self._caller = caller

    def ingest(self, series: SeriesKey, batches: Iterable[Mapping[str, Column]], on_invalid: str) -> IngestSummary:
        """Send batches as one ingest."""
        requests = _ingest_requests(series, batches, on_invalid)
        with translated():
            response = self._stub.IngestKlines(requests, metadata=self._caller.metadata())
        return convert.ingest_summary(response)

    def stream(
        self,
        series: SeriesKey,
        start_ms: int,
        end_ms: int,
        *,
        batch_size: int,
        columns: Sequence[str] | None,
        gap_policy: str,
    ) -> Iterator[KlineBatch]:
        """Yield batches; a cut stream goes on where it was cut, at the same revision, without later appends."""
        request = pb.StreamKlinesRequest(
            series=series_to_proto(series),
            start_time=timestamp_to_proto(start_ms),
            end_time=timestamp_to_proto(end_ms),
            batch_size=batch_size,
            columns=[kline_pb2.KlineColumn.Value(f"KLINE_COLUMN_{name.upper()}") for name in columns or ()],
            gap_policy=_GAP_POLICY[gap_policy],
        )

        def from_last() -> Iterator[pb.StreamKlinesResponse]:
            return self._caller.stream(self._stub.StreamKlines, request)

        for response in self._caller.resuming(from_last):
            if not request.HasField("expected_revision"):
                request.expected_revision = response.revision
                request.end_time.CopyFrom(timestamp_to_proto(min(end_ms, response.last_open_time_ms + 1)))
            request.resume_from_ms = response.next_open_time_ms
            yield KlineBatch(
                read_columns(response.batch),
                response.next_open_time_ms,
                response.klines_sent,
                response.klines_total,
                request.expected_revision,
            )
            if response.klines_sent >= response.klines_total:
                return

    def load(self, series: SeriesKey, start_ms: int, end_ms: int) -> LoadedKlines:
        """Read a range whole, from the start again when it was rewritten meanwhile."""
        for attempt in range(_LOAD_TRIES):
            try:
                batches = list(
                    self.stream(series, start_ms, end_ms, batch_size=MAX_BATCH, columns=None, gap_policy="SKIP")
                )
                break
            except Aborted:
                if attempt == _LOAD_TRIES - 1:
                    raise
                time.sleep(0.05 * (attempt + 1))
        parts = [[batch.columns[name] for batch in batches] for name in _OHLCV]
        whole: list[Any] = [part[0] if len(part) == 1 else np.concatenate(part) for part in parts]
        return LoadedKlines(KlineColumns(*whole), batches[0].revision)

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
