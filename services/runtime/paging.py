"""Opaque page tokens, tied to a tenant and a list, so that one made elsewhere is refused."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json

from klinecast.errors import FieldViolation, InvalidArgument

Cursor = list[str | int | float | None]
_DIGEST_BYTES = 9


def encode_page_token(tenant: str, list_name: str, cursor: Cursor) -> str:
    """Return the token of the page that starts after `cursor`."""
    body = json.dumps(cursor, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(_digest(tenant, list_name, body) + body).decode()


def decode_page_token(token: str, tenant: str, list_name: str) -> Cursor | None:
    """Return the cursor of a token, None for the empty one; raise InvalidArgument (BAD_PAGE_TOKEN) for a stranger."""
    if not token:
        return None
    try:
        raw = base64.urlsafe_b64decode(token.encode("ascii"))
    except (binascii.Error, ValueError):
        raise _bad_token() from None
    digest, body = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
    if not hmac.compare_digest(digest, _digest(tenant, list_name, body)):
        raise _bad_token()
    cursor: Cursor = json.loads(body)
    return cursor


def _digest(tenant: str, list_name: str, body: bytes) -> bytes:
    key = f"{tenant}\0{list_name}".encode()
    return hashlib.blake2b(body, key=hashlib.blake2b(key, digest_size=32).digest(), digest_size=_DIGEST_BYTES).digest()


def _bad_token() -> InvalidArgument:
    return InvalidArgument.of(FieldViolation("page_token", "is not a token of this list"), reason="BAD_PAGE_TOKEN")
