"""How the SDK proves who it is and whom it believes: certificates and a token, each in a file that may change."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

import grpc

from klinecast.errors import FieldViolation, InvalidArgument, Unauthenticated

PUBLIC = "public"
_HOST = re.compile(r"(?:[a-z]+:(?://[^/]*/)?)?(?P<host>\[[^]]*\]|[^:]*)(?::\w+)?")


@dataclass(frozen=True, slots=True)
class Security:
    """TLS and the token of a client. Without ca_file it speaks plaintext."""

    ca_file: str | None = None
    """PEM of the authorities that sign the services' certificates; "public": those that browsers know."""
    certificate_file: str | None = None
    """PEM of the client's own certificate, where services ask for one (mTLS)."""
    key_file: str | None = None
    """PEM of its private key."""
    token_file: str | None = None
    """Token that says who calls; read again when it changes."""
    insecure_token_without_tls: bool = False
    """Send the token in plaintext to other machines, for example within a mesh that encrypts by itself."""

    def __post_init__(self) -> None:
        """Refuse halves."""
        if (self.certificate_file is None) != (self.key_file is None):
            raise _bad("key_file" if self.key_file is None else "certificate_file", "is required as well")
        if self.certificate_file is not None and self.ca_file is None:
            raise _bad("ca_file", "is required with a certificate of the client's own")

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Return what a channel needs that speaks TLS."""
        public = self.ca_file is None or self.ca_file == PUBLIC
        authorities = None if public else _content("ca_file", self.ca_file or "")
        if self.certificate_file is None or self.key_file is None:
            return grpc.ssl_channel_credentials(authorities)
        return grpc.ssl_channel_credentials(
            authorities, _content("key_file", self.key_file), _content("certificate_file", self.certificate_file)
        )

    def certificate_stamp(self) -> object:
        """Return what changes when one of the certificates' files does."""
        return tuple(_stamp(path) for path in (self.ca_file, self.certificate_file, self.key_file))

    def check_target(self, target: str) -> None:
        """Refuse to show the token to whoever listens on the way to another machine."""
        if self.token_file is None or self.ca_file is not None or self.insecure_token_without_tls:
            return
        if not _is_here(target):
            raise _bad("ca_file", f"is required: without TLS the token would be sent to {target} for all to read")


class TokenFile:
    """The token of a file, as it is now."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._stamp: object = None
        self._token: str | None = None

    def read(self) -> str | None:
        """Return the token; None where there is no file to be. Raises Unauthenticated when it cannot be read."""
        if self._path is None:
            return None
        stamp = _stamp(self._path)
        if stamp is None or stamp != self._stamp:
            try:
                self._token = Path(self._path).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise Unauthenticated(f"cannot read the token of {self._path}: {error}") from None
            self._stamp = stamp
        return self._token


def _is_here(target: str) -> bool:
    if target.startswith("unix"):
        return True
    match = _HOST.fullmatch(target)
    host = match["host"].strip("[]") if match else ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _stamp(path: str | None) -> tuple[int, int, int] | None:
    try:
        found = Path(path or "").stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _content(field: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise _bad(field, f"cannot read {path}: {error.strerror}") from None


def _bad(field: str, description: str) -> InvalidArgument:
    return InvalidArgument.of(FieldViolation(f"security.{field}", description))
