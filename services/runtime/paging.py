"""Opaque page tokens, tied to a tenant and a list, so that one made elsewhere is refused.

They hold no secret and grant nothing: whoever forges one with the right digest still sees their own lists only, and
what it holds is read as suspiciously as a request.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import uuid
from collections.abc import Callable
from typing import TypeVar

from klinecast.errors import FieldViolation, InvalidArgument

Cursor = list[str | int | float | None]
Place = TypeVar("Place")
_DIGEST_BYTES = 9
_LONGEST_TEXT = 128


def encode_page_token(tenant: str, list_name: str, cursor: Cursor) -> str:
    """Return the token of the page that starts after `cursor`."""
    body = json.dumps(cursor, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(_digest(tenant, list_name, body) + body).decode()


def read_page_token(token: str, tenant: str, list_name: str, read: Callable[[Cursor], Place]) -> Place | None:
    """Return what `read` makes of a token's cursor, None for the empty token.

    Raises InvalidArgument (BAD_PAGE_TOKEN) for a stranger, and for a cursor that `read` finds impossible.
    """
    if not token:
        return None
    try:
        raw = base64.urlsafe_b64decode(token.encode("ascii"))
        digest, body = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
        if not hmac.compare_digest(digest, _digest(tenant, list_name, body)):
            raise _bad_token()
        return read(json.loads(body))
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
        raise _bad_token() from None


def require_text(value: str | int | float | None) -> str:
    """Return a part of a cursor that the database will compare as text. ValueError."""
    if isinstance(value, str) and len(value) <= _LONGEST_TEXT and value.isprintable():
        return value
    raise ValueError("is no text")


def require_id(value: str | int | float | None) -> str:
    """Return a part of a cursor that is a UUID. ValueError."""
    return str(uuid.UUID(require_text(value)))


def _digest(tenant: str, list_name: str, body: bytes) -> bytes:
    key = f"{tenant}\0{list_name}".encode()
    return hashlib.blake2b(body, key=hashlib.blake2b(key, digest_size=32).digest(), digest_size=_DIGEST_BYTES).digest()


def _bad_token() -> InvalidArgument:
    return InvalidArgument.of(FieldViolation("page_token", "is not a token of this list"), reason="BAD_PAGE_TOKEN")
