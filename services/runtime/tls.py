"""The server's certificates, read again when they change. Knows no service."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from services.runtime.config import SettingsError, TlsSettings
from services.runtime.logs import get_logger

_LOG = get_logger(__name__)
_Files = tuple[bytes, bytes, bytes | None]


class Certificates:
    """The files of the newest certificate that can be used; what cannot be leaves the one before in force."""

    def __init__(self, settings: TlsSettings, on_refused: Callable[[], None]) -> None:
        """Read them for the first time; SettingsError names the setting whose file cannot be used."""
        self._settings = settings
        self._on_refused = on_refused
        self._used = self._checked(self._read())

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials that look for newer files before each handshake."""
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._used),
            self._newer,  # type: ignore[arg-type]  # None, which the stubs forget, means no change
            require_client_authentication=self._used[2] is not None,
        )

    def expire_at(self) -> float:
        """Return when the certificate of the next handshake ends, in seconds of the epoch."""
        try:
            files = self._checked(self._read())
        except Exception:  # counted where it is refused
            files = self._used
        return x509.load_pem_x509_certificates(files[0])[0].not_valid_after_utc.timestamp()

    def _newer(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what changed since the last handshake; called by gRPC, from threads of its own."""
        try:
            files = self._read()
            if files == self._used:
                return None
            self._used = self._checked(files)
        except Exception as error:  # of any kind: gRPC would refuse the handshake
            self._on_refused()
            problem = str(error) if isinstance(error, SettingsError) else type(error).__name__
            _LOG.warning("certificate_not_taken", problem=problem)
            return None
        _LOG.info("certificate_taken")
        return _configuration(files)

    def _read(self) -> _Files:
        settings = self._settings
        client_ca = settings.client_ca_file
        return (
            _content("CERTIFICATE_FILE", settings.certificate_file or ""),
            _content("KEY_FILE", settings.key_file or ""),
            None if client_ca is None else _content("CLIENT_CA_FILE", client_ca),
        )

    def _checked(self, files: _Files) -> _Files:
        """Return the files where they belong together; gRPC would refuse every handshake and not say why."""
        certificate, key, client_ca = (
            self._settings.certificate_file,
            self._settings.key_file,
            self._settings.client_ca_file,
        )
        try:
            public = x509.load_pem_x509_certificates(files[0])[0].public_key()
        except (ValueError, IndexError):
            raise SettingsError((f"KLINECAST_TLS__CERTIFICATE_FILE: {certificate} holds no certificate",)) from None
        try:
            private = load_pem_private_key(files[1], None)
        except (ValueError, TypeError):
            raise SettingsError((f"KLINECAST_TLS__KEY_FILE: {key} holds no private key without a password",)) from None
        if private.public_key() != public:  # in the middle of a change, or a mistake
            raise SettingsError((f"KLINECAST_TLS__KEY_FILE: {key} is not the key of {certificate}",))
        try:
            x509.load_pem_x509_certificates(files[2] if files[2] is not None else files[0])
        except ValueError:
            raise SettingsError((f"KLINECAST_TLS__CLIENT_CA_FILE: {client_ca} holds no certificate",)) from None
        return files


def _content(name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SettingsError((f"KLINECAST_TLS__{name}: cannot read {path}: {error.strerror}",)) from None


def _configuration(files: _Files) -> grpc.ServerCertificateConfiguration:
    certificate, key, client_ca = files
    return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=client_ca)
