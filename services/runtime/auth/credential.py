"""What a token says of its bearer, and what RPCs ask of it."""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from klinecast.errors import PermissionDenied


class Role(enum.StrEnum):
    """What a bearer may do."""

    USER = "user"
    """Read klines; run backtests, read and keep results, all of its own tenant."""
    INGEST = "ingest"
    """Read klines; write and delete klines and indicators, which all tenants share."""
    ADMIN = "admin"
    """What user and ingest may, and set the retention policy of its tenant."""
    SERVICE = "service"
    """A part of this suite, or a backend in front of it: acts for the tenant that `klinecast-tenant` names."""


AccessTable = Mapping[str, frozenset[Role]]
"""RPC -> the roles of which a caller must have one."""

READ = frozenset(Role)
USE = frozenset({Role.USER, Role.ADMIN, Role.SERVICE})
INGEST = frozenset({Role.INGEST, Role.ADMIN})
ADMIN = frozenset({Role.ADMIN})
SERVICE = frozenset({Role.SERVICE})


@dataclass(frozen=True, slots=True)
class Credential:
    """A token that holds."""

    subject: str
    """Who it was given to; for the log."""
    tenant: str
    roles: frozenset[Role]
    expires_at: float | None
    """Seconds of the epoch; None: until it is taken from its file."""

    def require(self, roles: frozenset[Role]) -> None:
        """Raise PermissionDenied unless the bearer has one of the roles."""
        if not self.roles & roles:
            wanted = " or ".join(sorted(roles - {Role.ADMIN} or roles))
            raise PermissionDenied(f"the role {wanted} is required", metadata={"required": wanted})


def known_roles(names: Collection[object]) -> frozenset[Role]:
    """Return the roles among names; others belong to other systems."""
    return frozenset(role for role in Role if role in names)
