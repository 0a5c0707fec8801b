"""Who calls and what for: tokens, what they say, and which roles an RPC wants. Knows no service and no gRPC."""

from __future__ import annotations

from services.runtime.auth.authenticator import Authenticator
from services.runtime.auth.credential import AccessTable, Credential, Role

__all__ = ["AccessTable", "Authenticator", "Credential", "Role"]
