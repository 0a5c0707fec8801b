"""Who may call which RPC; whatever has an id is the caller's tenant's or not found."""

from __future__ import annotations

from services.runtime.auth.credential import ADMIN, SERVICE, USE, AccessTable

ACCESS: AccessTable = {
    "SaveResult": SERVICE,
    "GetResult": USE,
    "ListResults": USE,
    "CheckResults": USE,
    "CompareResults": USE,
    "RenderReport": USE,
    "StreamTrades": USE,
    "StreamFills": USE,
    "StreamEquity": USE,
    "UpdateRetention": USE,
    "DeleteResult": USE,
    "GetRetentionPolicy": USE,
    "SetRetentionPolicy": ADMIN,
    "PreviewRetention": USE,
    "ListRetentionAudit": USE,
}
