"""An authority for certificates and an identity provider for tokens, made for one test."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from klinecast.client import Security
from services.runtime.auth.static_tokens import digest, new_token

ISSUER, AUDIENCE = "https://login.example", "klinecast"


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file in one step, as Kubernetes does."""
    scratch = path.with_suffix(".new")
    scratch.write_bytes(content)
    os.replace(scratch, path)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its key in files."""

    certificate_file: Path
    key_file: Path


class Authority:
    """Signs certificates."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._name = folder, name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._sign(name, self._key, ca=True)
        self.ca_file = folder / f"{name}.crt"
        self.ca_file.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    def issue(self, name: str) -> Certificate:
        """Write a certificate for this machine's loopback; one of the same name is replaced."""
        key = ec.generate_private_key(ec.SECP256R1())
        found = Certificate(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        replace_file(found.key_file, private)
        replace_file(found.certificate_file, self._sign(name, key).public_bytes(Encoding.PEM))
        return found

    def _sign(self, name: str, key: ec.EllipticCurvePrivateKey, *, ca: bool = False) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        return (
            x509.CertificateBuilder()
            .subject_name(_named(name))
            .issuer_name(_named(self._name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=5))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self._key, hashes.SHA256())
        )


class Provider:
    """Signs JSON Web Tokens; its public keys are in a file."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.jwks_file = folder / "jwks.json"
        self._keys: dict[str, ec.EllipticCurvePrivateKey] = {}
        self.rotate()

    def rotate(self, *, keep: bool = False) -> None:
        """Sign with a new key from now on; the old ones are forgotten, or kept beside it."""
        if not keep:
            self._keys.clear()
        self._keys[uuid.uuid4().hex] = ec.generate_private_key(ec.SECP256R1())
        algorithm = jwt.get_algorithm_by_name("ES256")
        keys = [
            {**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "alg": "ES256", "use": "sig"}
            for kid, key in self._keys.items()
        ]
        replace_file(self.jwks_file, json.dumps({"keys": keys}).encode())

    def token(
        self,
        tenant: str | None,
        *roles: str,
        expires_s: float = 3600.0,
        said: Mapping[str, object] | None = None,
    ) -> str:
        """Return a token; claims said to be None are left out."""
        kid, key = list(self._keys.items())[-1]
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": f"someone of {tenant}",
            "exp": time.time() + expires_s,
            "tenant": tenant,
            "roles": list(roles),
        } | dict(said or {})
        payload = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(payload, key, "ES256", headers={"kid": kid})


class Secured:
    """Everything a deployment with TLS and tokens needs, in files below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder)
        self.server = self.authority.issue("server")
        self.client = self.authority.issue("client")
        self.provider = Provider(folder)
        self.tokens_file = folder / "tokens.json"
        self.service_token = self.add_static("services", ["service"])

    def add_static(self, subject: str, roles: list[str], **entry: object) -> str:
        """Add a static token and return it."""
        token = new_token()
        entries = self._entries() | {subject: {"sha256": digest(token), "subject": subject, "roles": roles, **entry}}
        replace_file(self.tokens_file, json.dumps(list(entries.values())).encode())
        return token

    def change_static(self, subject: str, **entry: object) -> None:
        """Change what a static token says."""
        entries = self._entries()
        replace_file(self.tokens_file, json.dumps([*(entries | {subject: entries[subject] | entry}).values()]).encode())

    def remove_static(self, subject: str) -> None:
        """Take a static token away."""
        entries = [one for name, one in self._entries().items() if name != subject]
        replace_file(self.tokens_file, json.dumps(entries).encode())

    def token_file(self, token: str, name: str | None = None) -> Path:
        """Write a token to a file of this name."""
        path = self.folder / (name or f"{uuid.uuid4().hex}.token")
        replace_file(path, token.encode() + b"\n")
        return path

    def security(self, token: str | None, *, certificate: bool = False, name: str | None = None) -> Security:
        """Return what a client says of itself."""
        own = (str(self.client.certificate_file), str(self.client.key_file)) if certificate else (None, None)
        token_file = str(self.token_file(token, name)) if token is not None else None
        return Security(str(self.authority.ca_file), *own, token_file)

    def settings(self, *, mtls: bool = False) -> dict[str, str]:
        """Return the settings of the services, without their prefix."""
        settings = {
            "TLS__CERTIFICATE_FILE": str(self.server.certificate_file),
            "TLS__KEY_FILE": str(self.server.key_file),
            "HEALTH_LISTEN": "127.0.0.1:0",
            "AUTH__JWKS_FILE": str(self.provider.jwks_file),
            "AUTH__ISSUER": ISSUER,
            "AUTH__AUDIENCE": AUDIENCE,
            "AUTH__TOKENS_FILE": str(self.tokens_file),
            "CLIENT__CA_FILE": str(self.authority.ca_file),
            "CLIENT__TOKEN_FILE": str(self.token_file(self.service_token, "services.token")),
        }
        if mtls:
            settings |= {
                "TLS__CLIENT_CA_FILE": str(self.authority.ca_file),
                "CLIENT__CERTIFICATE_FILE": str(self.client.certificate_file),
                "CLIENT__KEY_FILE": str(self.client.key_file),
            }
        return settings

    def _entries(self) -> dict[str, Any]:
        if not self.tokens_file.exists():
            return {}
        return {one["subject"]: one for one in json.loads(self.tokens_file.read_text())}


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
