"""Whose work the current call is; read it where a store is asked, never from a request field."""

from __future__ import annotations

import re
from contextvars import ContextVar
from typing import NamedTuple

DEFAULT_TENANT = "default"
TENANT_KEY = "klinecast-tenant"
"""Metadata key; honoured from callers with role `service`, and from all where nobody needs a token."""
TENANT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class Caller(NamedTuple):
    """For whom a call is made, and by whom."""

    tenant: str
    is_service: bool
    """Whether its token has the role `service`; so has everybody where nobody needs a token."""


current_subject: ContextVar[str] = ContextVar("current_subject", default="")
"""To whom the caller's token was given; for the log."""
caller_is_service: ContextVar[bool] = ContextVar("caller_is_service", default=True)
"""Whether the caller's token has the role `service`; of everybody where nobody needs a token."""
current_tenant: ContextVar[str] = ContextVar("current_tenant", default=DEFAULT_TENANT)
