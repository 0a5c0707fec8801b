"""Whose work the current call is; read it where a store is asked, never from a request field."""

from __future__ import annotations

import re
from contextvars import ContextVar

DEFAULT_TENANT = "default"
TENANT_KEY = "klinecast-tenant"
"""Metadata key; honoured from any caller until there are credentials."""
TENANT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")

current_tenant: ContextVar[str] = ContextVar("current_tenant", default=DEFAULT_TENANT)
