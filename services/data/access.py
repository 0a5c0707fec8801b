"""Who may call which RPC. Klines are facts shared by all tenants: whoever reads may read all, few may write."""

from __future__ import annotations

from services.runtime.auth.credential import INGEST, READ, AccessTable

ACCESS: AccessTable = {
    "IngestKlines": INGEST,
    "IngestIndicators": INGEST,
    "DeleteKlines": INGEST,
    "StreamKlines": READ,
    "StreamIndicators": READ,
    "ListIndicatorSeries": READ,
    "ListSeries": READ,
    "GetSeries": READ,
    "GetRange": READ,
    "ListGaps": READ,
    "CheckSeries": READ,
}
