"""Tokens of a file that holds their hashes: for small installations, and for services that call each other."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from services.runtime.auth.credential import Credential, Role
from services.runtime.tenancy import DEFAULT_TENANT, TENANT_NAME

PREFIX = "kc_"
"""So that scanners of secrets know one when they see it."""


class StaticToken(BaseModel):
    """An entry of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of the token, in hex. A token has 256 random bits, so a plain hash is enough."""
    subject: Annotated[str, Field(min_length=1, max_length=200)]
    tenant: Annotated[str, Field(pattern=f"^{TENANT_NAME.pattern}$")] = DEFAULT_TENANT
    roles: Annotated[list[Role], Field(min_length=1)]
    expires: AwareDatetime | None = None
    """With an offset, for example 2027-01-01T00:00:00Z."""

    def credential(self) -> Credential:
        """Return what it says."""
        expires_at = self.expires.timestamp() if self.expires else None
        return Credential(self.subject, self.tenant, frozenset(self.roles), expires_at)


_FILE = TypeAdapter(list[StaticToken])


def new_token() -> str:
    """Return a token nobody has."""
    return PREFIX + secrets.token_urlsafe(32)


def digest(token: str) -> str:
    """Return by what a token is found."""
    return hashlib.sha256(token.encode()).hexdigest()


def parse_tokens(content: bytes) -> Mapping[str, Credential]:
    """Read the file: credentials by digest. ValueError names the entry and the field."""
    try:
        entries: Sequence[StaticToken] = _FILE.validate_json(content)
    except ValidationError as error:
        [first, *_] = error.errors(include_url=False, include_input=False)
        place = ".".join(str(part) for part in first["loc"]) or "file"
        raise ValueError(f"{place}: {first['msg']}") from None
    return {one.sha256: one.credential() for one in entries}
