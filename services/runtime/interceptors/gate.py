"""Refuses calls until the tables are there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.runtime.errors import database_unavailable
from services.runtime.interceptors.call import Around, Call


def gate_around(migrated: asyncio.Event) -> Around:
    """Return an around that answers DATABASE_UNAVAILABLE until `migrated`; health and reflection always pass."""

    @asynccontextmanager
    async def around(call: Call) -> AsyncIterator[None]:
        if not migrated.is_set() and not call.method.service.startswith("grpc."):
            raise database_unavailable()
        yield

    return around
