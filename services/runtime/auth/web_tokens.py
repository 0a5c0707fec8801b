"""JSON Web Tokens of an identity provider, checked with the public keys of a JWKS file (RFC 7517, 7519)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jwt
from jwt.exceptions import PyJWTError

from klinecast.errors import Unauthenticated
from services.runtime.auth.credential import Credential, Role, known_roles
from services.runtime.logs import get_logger
from services.runtime.tenancy import DEFAULT_TENANT, TENANT_NAME

LEEWAY_S = 2.0
"""By how much the provider's clock and ours may differ."""
_ALGORITHMS = {
    "RSA": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "EC": ("ES256", "ES384", "ES512"),
    "OKP": ("EdDSA",),
}
"""By type of key, asymmetric only: neither `none` nor a public key taken for a shared secret."""
_LOG = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key and what it may be used with."""

    key: Any
    algorithms: Sequence[str]


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token must say, and where it says the rest."""

    issuer: str
    audience: str
    tenant: str
    """Claim of the tenant; a path through objects is dotted."""
    roles: str
    """Claim of the roles: a list, or words in a string."""


PublicKeys = Mapping[str | None, Sequence[PublicKey]]
"""By their id; those without one under None."""


def parse_keys(content: bytes) -> PublicKeys:
    """Read a JWKS: the public keys of signatures. ValueError where there is none, or a private one."""
    found: dict[str | None, list[PublicKey]] = {}
    for index, entry in enumerate(_entries(content)):
        if isinstance(entry, dict) and "d" in entry:  # before anything that might tell it
            raise ValueError(f"keys[{index}]: is a private key; the file is for public ones")
        try:
            key, kid = _public_key(entry), entry.get("kid")
            if key is not None:
                found.setdefault(kid, []).append(key)
        except Exception as error:  # the library has many for what is no key; other keys are as good as before
            _LOG.warning("key_not_taken", index=index, problem=type(error).__name__)
    if not found:
        raise ValueError("keys: holds no public key of type RSA, EC or OKP for signatures")
    return found


def _entries(content: bytes) -> Sequence[Any]:
    try:
        document = json.loads(content)
    except RecursionError:
        raise ValueError("nests too deeply") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError("keys: is required, a list")
    return entries


def _public_key(entry: Any) -> PublicKey | None:
    if entry.get("kty") not in _ALGORITHMS or entry.get("use", "sig") != "sig":
        return None
    algorithms = _ALGORITHMS[entry["kty"]]
    return PublicKey(jwt.PyJWK(entry).key, [entry["alg"]] if entry.get("alg") in algorithms else algorithms)


def read_token(token: str, keys: PublicKeys, claims: Claims) -> Credential:
    """Return what a token says. Unauthenticated where it does not hold."""
    try:
        payload = _payload(token, keys, claims)
    except jwt.ExpiredSignatureError:
        raise Unauthenticated("the token has expired") from None
    except PyJWTError:
        raise Unauthenticated("the token is not valid") from None
    roles = known_roles(_words(_claim(payload, claims.roles)))
    tenant = _claim(payload, claims.tenant)
    if tenant is None and Role.SERVICE in roles:
        tenant = DEFAULT_TENANT
    if not isinstance(tenant, str) or not TENANT_NAME.fullmatch(tenant):
        raise Unauthenticated("the token names no tenant")
    return Credential(str(payload.get("sub", "")), tenant, roles, float(payload["exp"]))


def _payload(token: str, keys: PublicKeys, claims: Claims) -> Mapping[str, Any]:
    refused: PyJWTError = jwt.InvalidKeyError("no such key")
    for key in _keys_of(token, keys):
        try:
            return jwt.decode(
                token,
                key.key,
                algorithms=key.algorithms,
                audience=claims.audience,
                issuer=claims.issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud"]},
            )
        except (jwt.InvalidSignatureError, jwt.InvalidAlgorithmError) as error:
            refused = error
    raise refused


def _keys_of(token: str, keys: PublicKeys) -> Sequence[PublicKey]:
    kid = jwt.get_unverified_header(token).get("kid")
    if kid is None and len(keys) == 1:
        return next(iter(keys.values()))
    return keys.get(kid, ())


def _claim(payload: Mapping[str, Any], path: str) -> object:
    if path in payload:  # a claim may be called by a URL, which has dots of its own
        return payload[path]
    value: object = payload
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _words(value: object) -> Sequence[object]:
    if isinstance(value, str):
        return value.split()
    return value if isinstance(value, list) else ()
