"""Who may call which RPC; whatever has an id is the caller's tenant's or not found."""

from __future__ import annotations

from services.runtime.auth.credential import USE, AccessTable

ACCESS: AccessTable = {
    "CreateBacktest": USE,
    "RunBacktest": USE,
    "WatchBacktest": USE,
    "GetBacktest": USE,
    "ListBacktests": USE,
    "CancelBacktest": USE,
    "ListStrategies": USE,
}
