"""Bounds what each tenant has in flight, and lets its unary calls run in turns that leave room for other tenants.

Ours rather than gRPC's, which knows no tenants and refuses health probes too, so that full pods are killed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import lru_cache

from klinecast.errors import QuotaViolation, ResourceExhausted
from services.runtime.channel import METADATA_BYTES
from services.runtime.config import LimitSettings
from services.runtime.errors import RpcStatus, translate
from services.runtime.interceptors.call import Call, Method
from services.runtime.logs import get_logger
from services.runtime.tenancy import Caller, caller_is_service, current_tenant

TENANT_STREAMS, SERVICE_STREAMS = 100, 2_000
"""Of one tenant: its own, which may stall, and those of services that act for it, which read what they ask for."""
RETRY_AFTER_S = 0.5
RIVALRY_S = 1.0
"""Tenants that called within so long of each other share the event loop."""
RESTS, LONGEST_REST_S = 2, 0.05
LOG_EVERY_S = 1.0
"""Refusals are logged together: a line for each would be a flood of its own."""
_LOG = get_logger(__name__)


@dataclass(slots=True)
class _Share:
    """What one tenant has in flight; forgotten when that is nothing."""

    turns: asyncio.Semaphore
    rpcs: int = 0
    streams: list[int] = field(default_factory=lambda: [0, 0])
    """Its own, and those of services that act for it."""

    @property
    def is_idle(self) -> bool:
        return self.rpcs == sum(self.streams) == 0


class CallLimits:
    """The calls of one server; health and reflection are never counted."""

    def __init__(self, settings: LimitSettings) -> None:
        self._settings = settings
        self._running = 0
        self._shares: dict[str, _Share] = {}
        self._latest, self._rivals_until = "", 0.0
        self._refused, self._logged = 0, 0.0

    def refusal(self, method: Method, metadata: Mapping[str, str | bytes], caller: Caller) -> RpcStatus | None:
        """Return what a call is told that can be refused before anything is spent on it, None for others."""
        if _size(metadata) > METADATA_BYTES:
            return _METADATA_REFUSED
        exceeded = self._exceeded(method, caller)
        if exceeded is None:
            return None
        self._log_refusal(*exceeded)
        return _refusal_status(*exceeded)

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        """Refuse at once what exceeds a bound; a unary call then waits for its turn among its tenant's."""
        caller, is_unary = Caller(current_tenant.get(), caller_is_service.get()), call.method.type == "unary"
        if (exceeded := self._exceeded(call.method, caller)) is not None:
            raise _refusal_error(*exceeded)
        if _is_free(call.method):
            yield
            return
        share = self._enter(caller, is_unary=is_unary)
        try:
            if is_unary:
                async with self._turn(share):
                    yield
            else:
                yield
        finally:
            self._leave(caller, share, is_unary=is_unary)

    def _exceeded(self, method: Method, caller: Caller) -> tuple[str, str] | None:
        """Return whose bound a further call would exceed, and which."""
        settings, share = self._settings, self._shares.get(caller.tenant)
        if _is_free(method):
            return None
        if settings.max_concurrent_rpcs is not None and self._running >= settings.max_concurrent_rpcs:
            return "service", f"{settings.max_concurrent_rpcs} calls"
        if share is None:
            return None
        if method.type == "unary" and share.rpcs >= settings.tenant_max_rpcs:
            return f"tenant:{caller.tenant}", f"{settings.tenant_max_rpcs} unary calls"
        most = settings.tenant_max_streams or (SERVICE_STREAMS if caller.is_service else TENANT_STREAMS)
        if method.type != "unary" and share.streams[caller.is_service] >= most:
            return f"tenant:{caller.tenant}", f"{most} streams"
        return None

    def _enter(self, caller: Caller, *, is_unary: bool) -> _Share:
        tenant = caller.tenant
        if tenant != self._latest:
            self._latest, self._rivals_until = tenant, time.monotonic() + RIVALRY_S
        if tenant not in self._shares:
            self._shares[tenant] = _Share(asyncio.Semaphore(self._settings.tenant_running_rpcs))
        share = self._shares[tenant]
        self._running += 1
        share.rpcs += is_unary
        share.streams[caller.is_service] += not is_unary
        return share

    def _leave(self, caller: Caller, share: _Share, *, is_unary: bool) -> None:
        self._running -= 1
        share.rpcs -= is_unary
        share.streams[caller.is_service] -= not is_unary
        if share.is_idle:
            del self._shares[caller.tenant]

    @asynccontextmanager
    async def _turn(self, share: _Share) -> AsyncIterator[None]:
        """Hold one of the tenant's turns.

        While other tenants call too, a turn rests after use, RESTS times as long as all of the tenant's together were
        used: the event loop is never full of one tenant's work then, and takes in the calls of others in time.
        """
        await share.turns.acquire()
        began = time.monotonic()
        try:
            yield
        finally:
            now = time.monotonic()
            rest_s = min((now - began) * self._settings.tenant_running_rpcs * RESTS, LONGEST_REST_S)
            if now < self._rivals_until:
                asyncio.get_running_loop().call_later(rest_s, share.turns.release)
            else:
                share.turns.release()

    def _log_refusal(self, subject: str, bound: str) -> None:
        self._refused += 1
        if time.monotonic() - self._logged >= LOG_EVERY_S:
            _LOG.warning("calls_refused", count=self._refused, subject=subject, bound=bound)
            self._refused, self._logged = 0, time.monotonic()


def _is_free(method: Method) -> bool:
    return method.service.startswith("grpc.")


def _refusal_error(subject: str, bound: str) -> ResourceExhausted:
    quota = QuotaViolation(subject=subject, description=f"at most {bound} at once in this process")
    return ResourceExhausted("too many calls at once", quota=[quota], retry_after_s=RETRY_AFTER_S)


def _size(metadata: Mapping[str, str | bytes]) -> int:
    """Return the size as HTTP/2 counts it; gRPC does not look at it before the peer has taken note of our settings."""
    return sum(len(key) + len(value) + 32 for key, value in metadata.items())


_METADATA_REFUSED = translate(ResourceExhausted(f"the metadata is larger than {METADATA_BYTES:,} bytes"), "")


@lru_cache(maxsize=1024)
def _refusal_status(subject: str, bound: str) -> RpcStatus:
    return translate(_refusal_error(subject, bound), "")
