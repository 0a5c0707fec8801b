"""Takes the tenant from the call's metadata."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from klinecast.errors import FieldViolation, InvalidArgument
from services.runtime.interceptors.call import Call
from services.runtime.tenancy import DEFAULT_TENANT, TENANT_KEY, TENANT_NAME, current_tenant


@asynccontextmanager
async def tenant_around(call: Call) -> AsyncIterator[None]:
    """Set `current_tenant` for the call's task; refuse a name that is none."""
    # Not reset: the task and its context end with the call, and the access log still wants the name.
    current_tenant.set(_tenant_of(call))
    yield


def claimed_tenant(metadata: Mapping[str, str | bytes]) -> str:
    """Return the tenant a caller says it is; not checked."""
    return str(metadata.get(TENANT_KEY, DEFAULT_TENANT))


def _tenant_of(call: Call) -> str:
    name = call.metadata.get(TENANT_KEY, DEFAULT_TENANT)
    if isinstance(name, str) and TENANT_NAME.fullmatch(name):
        return name
    raise InvalidArgument.of(FieldViolation(f"metadata.{TENANT_KEY}", "is not a tenant name"))
