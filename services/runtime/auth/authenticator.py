"""From a call's metadata to the credential of its bearer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from klinecast.errors import Unauthenticated
from services.runtime.auth.credential import Credential
from services.runtime.auth.static_tokens import PREFIX, digest, parse_tokens
from services.runtime.auth.watched import WatchedFile
from services.runtime.auth.web_tokens import LEEWAY_S, Claims, PublicKeys, parse_keys, read_token
from services.runtime.config import AuthSettings, SettingsError

AUTHORIZATION = "authorization"
_SCHEME = "bearer "
_MOST_KNOWN = 10_000
_LONGEST_TOKEN = 8_192
_T = TypeVar("_T")


class Authenticator:
    """Knows the tokens of a file and those that an identity provider signed; remembers which it has checked."""

    def __init__(self, settings: AuthSettings, on_refused_file: Callable[[], None]) -> None:
        """Read the files; SettingsError names the setting whose file cannot be used."""
        self._tokens: WatchedFile[Mapping[str, Credential]] | None = None
        self._keys: WatchedFile[PublicKeys] | None = None
        if settings.tokens_file is not None:
            self._tokens = _watch("TOKENS_FILE", settings.tokens_file, parse_tokens, on_refused_file)
        if settings.jwks_file is not None:
            self._keys = _watch("JWKS_FILE", settings.jwks_file, parse_keys, on_refused_file)
        self._claims = Claims(
            settings.issuer or "", settings.audience or "", settings.tenant_claim, settings.roles_claim
        )
        self._known: dict[str, Credential] = {}
        self._known_version = 0

    def authenticate(self, metadata: Mapping[str, str | bytes]) -> Credential:
        """Return whose call it is. Unauthenticated where nobody's."""
        header = metadata.get(AUTHORIZATION)
        if not isinstance(header, str) or not header.lower().startswith(_SCHEME):
            raise Unauthenticated("a bearer token is required")
        return self.check(header[len(_SCHEME) :].strip())

    def check(self, token: str) -> Credential:
        """Return what a token says now. Unauthenticated where it does not hold, or holds no more."""
        if len(token) > _LONGEST_TOKEN:
            raise Unauthenticated("the token is not valid")
        key = digest(token)
        static = self._tokens.value.get(key) if self._tokens is not None else None
        credential = static or self._web_credential(key, token)
        if credential.expires_at is not None and time.time() >= credential.expires_at + (0 if static else LEEWAY_S):
            raise Unauthenticated("the token has expired")
        return credential

    def _web_credential(self, key: str, token: str) -> Credential:
        if self._keys is None or token.startswith(PREFIX):
            raise Unauthenticated("the token is not valid")
        keys = self._keys.value
        if self._keys.version != self._known_version or len(self._known) >= _MOST_KNOWN:
            self._known, self._known_version = {}, self._keys.version
        if key not in self._known:
            self._known[key] = read_token(token, keys, self._claims)
        return self._known[key]


def _watch(name: str, path: str, parse: Callable[[bytes], _T], on_refused: Callable[[], None]) -> WatchedFile[_T]:
    try:
        return WatchedFile(path, parse, on_refused)
    except OSError as error:
        raise SettingsError((f"KLINECAST_AUTH__{name}: cannot read {path}: {error.strerror}",)) from None
    except ValueError as error:
        raise SettingsError((f"KLINECAST_AUTH__{name}: {path}: {error}",)) from None
