"""Before anything else: whose call it is, and whether they may make it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

from klinecast.errors import FieldViolation, InvalidArgument, PermissionDenied, Unauthenticated
from services.runtime.auth import AccessTable, Authenticator, Credential, Role
from services.runtime.interceptors.call import Around, Call
from services.runtime.interceptors.cancellation import HEALTH_SERVICE, RunningCalls
from services.runtime.tenancy import (
    DEFAULT_TENANT,
    TENANT_KEY,
    TENANT_NAME,
    Caller,
    caller_is_service,
    current_subject,
    current_tenant,
)

Identify = Callable[[Mapping[str, str | bytes]], Caller]
"""Returns who calls with this metadata; raises KlinecastError."""
RECHECK_S = 1.0
"""How often the token of a stream is looked at again."""


def open_around() -> Around:
    """Return an around for a server that asks nobody for a token: the tenant is whom the metadata names."""

    @asynccontextmanager
    async def around(call: Call) -> AsyncIterator[None]:
        # Not reset: the task and its context end with the call, and the access log still wants the name.
        current_tenant.set(named_caller(call.metadata).tenant)
        yield

    return around


def auth_around(authenticator: Authenticator, access: AccessTable, calls: RunningCalls) -> Around:
    """Return an around that wants a token and one of the roles of the RPC; `access` is by path. Health is for all."""

    def admit(call: Call) -> None:
        credential = authenticator.authenticate(call.metadata)
        current_subject.set(credential.subject)
        caller_is_service.set(Role.SERVICE in credential.roles)
        current_tenant.set(_tenant_of(call.metadata, credential))
        if call.method.path not in access:  # served, but nobody said to whom
            raise PermissionDenied("nobody may call this method")
        credential.require(access[call.method.path])

    @asynccontextmanager
    async def around(call: Call) -> AsyncIterator[None]:
        if call.method.service == HEALTH_SERVICE:
            yield
            return
        admit(call)
        if call.method.type == "unary":
            yield
            return
        with _rechecked(admit, call, calls):
            yield

    return around


@contextmanager
def _rechecked(admit: Callable[[Call], None], call: Call, calls: RunningCalls) -> Iterator[None]:
    """End the call of the current task once it would not be let in any more, or as another tenant."""
    loop, task, tenant = asyncio.get_running_loop(), asyncio.current_task(), current_tenant.get()
    assert task is not None
    timer: asyncio.TimerHandle

    def check() -> None:
        nonlocal timer
        try:
            admit(call)  # in the timer's copy of the context: what it sets is not the call's
            if current_tenant.get() != tenant:
                raise Unauthenticated("the token is another tenant's now")
        except Exception as error:  # a fault of ours too: a call that cannot be checked does not go on
            calls.end(task, error)
        finally:
            timer = loop.call_later(RECHECK_S, check)

    timer = loop.call_later(RECHECK_S, check)
    try:
        yield
    finally:
        timer.cancel()


def named_caller(metadata: Mapping[str, str | bytes]) -> Caller:
    """Return whom the metadata names, where nobody needs a token."""
    return Caller(_name_in(metadata) or DEFAULT_TENANT, is_service=True)


def bearer(authenticator: Authenticator, metadata: Mapping[str, str | bytes]) -> Caller:
    """Return for whom the bearer of a token acts."""
    credential = authenticator.authenticate(metadata)
    return Caller(_tenant_of(metadata, credential), Role.SERVICE in credential.roles)


def _tenant_of(metadata: Mapping[str, str | bytes], credential: Credential) -> str:
    named = _name_in(metadata)
    if named is None or named == credential.tenant:
        return credential.tenant
    if Role.SERVICE not in credential.roles:
        raise PermissionDenied("only the role service acts for another tenant", metadata={"required": Role.SERVICE})
    return named


def _name_in(metadata: Mapping[str, str | bytes]) -> str | None:
    name = metadata.get(TENANT_KEY)
    if name is None or (isinstance(name, str) and TENANT_NAME.fullmatch(name)):
        return name
    raise InvalidArgument.of(FieldViolation(f"metadata.{TENANT_KEY}", "is not a tenant name"))
