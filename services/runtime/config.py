"""Settings from the environment: the only module that reads it. Knows no service's own settings."""

from __future__ import annotations

import difflib
import json
import os
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings import SettingsError as SourceError

from services.runtime.known_settings import KNOWN_SETTINGS
from services.runtime.lifecycle import split_address

PREFIX = "KLINECAST_"
DELIMITER = "__"
_KUBERNETES_NAME = re.compile(
    r"KLINECAST(_[A-Z0-9_]+)?_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_KUBERNETES_LINK = re.compile(r"(tcp|udp|sctp)://")


SecretUrl = Annotated[SecretStr, BeforeValidator(lambda value: value.strip() if isinstance(value, str) else value)]
"""Without the line end that files of Secrets have: it would belong to the name of the database."""


class Section(BaseModel):
    """Base of a nested group of settings."""

    model_config = ConfigDict(frozen=True)


class DatabaseSettings(Section):
    """Where Postgres is and how long to wait for it."""

    url: SecretUrl
    """postgresql://user:password@host:port/name; several services may share one."""

    @field_validator("url")
    @classmethod
    def _is_postgres(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().startswith(("postgresql://", "postgres://", "postgresql+psycopg://")):
            raise ValueError("a database URL starts with postgresql://")
        return value

    pool_size: int = Field(default=8, ge=1, le=1000)
    max_overflow: int = Field(default=4, ge=0, le=1000)
    connect_timeout_s: float = Field(default=2.0, gt=0, le=60)
    """Bound of getting a connection: making a new one or proving that a pooled one is alive."""
    pool_timeout_s: float = Field(default=2.5, gt=0, le=60)
    """How long a call waits for a free connection before it is UNAVAILABLE."""
    statement_timeout_s: float = Field(default=30.0, gt=0, le=3600)
    """Bound of one statement, kept by the server."""
    scope_timeout_s: float = Field(default=35.0, gt=0, le=3600)
    """Bound of one `begin` or `connect` block, kept here by closing its socket."""


class ShutdownSettings(Section):
    """How the process stops."""

    prestop_seconds: float = Field(default=0.0, ge=0, le=600)
    """Wait between NOT_SERVING and the refusal of new calls, for load balancers to notice."""
    drain_seconds: float = Field(default=10.0, ge=0, le=600)
    """How long running calls may go on before they are ended with a resumable UNAVAILABLE."""


class LimitSettings(Section):
    """Bounds of what callers may ask of one process."""

    max_message_bytes: int = Field(default=4 * 1024 * 1024, ge=1024, le=256 * 1024 * 1024)
    max_concurrent_rpcs: int | None = Field(default=None, ge=1)
    """Calls beyond it are refused at once with RESOURCE_EXHAUSTED; none means no bound."""
    tenant_max_rpcs: int = Field(default=256, ge=1)
    """Unary calls of one tenant, those that wait for their turn included; refused beyond."""
    tenant_running_rpcs: int = Field(default=8, ge=1)
    """How many of those run at once; they rest between calls while other tenants call too."""
    tenant_max_streams: int | None = Field(default=None, ge=1)
    """Streams of one tenant, up or down, those of services that act for it counted apart; refused beyond.

    None: 100, for a reader that stalls holds up to 3 MB; 2,000 of services, and of all where nobody needs a token.
    """
    max_concurrent_streams: int = Field(default=256, ge=1)
    """Calls of one connection beyond it wait in the client; a client that floods is a queue so long to the others."""
    connection_age_s: float = Field(default=300.0, ge=1)
    """After it a client connects anew for further calls, what runs goes on: so replicas that came later are found.

    Where it is shorter than nine tenths of prestop_seconds, not even callers that never try again see a restart.
    """
    stream_stall_s: float = Field(default=60.0, gt=0)
    """A reader that takes nothing for so long while a message waits for it is ended."""


class TlsSettings(Section):
    """Certificates; files that change are read again before the next handshake."""

    certificate_file: str | None = None
    """PEM of the server's certificate and those between it and the authority; none means plaintext."""
    key_file: str | None = None
    """PEM of its private key."""
    client_ca_file: str | None = None
    """PEM of the authorities of clients; with it every client must show a certificate of theirs (mTLS)."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.certificate_file is None) != (self.key_file is None):
            missing = "KEY_FILE" if self.key_file is None else "CERTIFICATE_FILE"
            raise ValueError(f"KLINECAST_TLS__{missing} is required as well")
        if self.client_ca_file is not None and self.certificate_file is None:
            raise ValueError("KLINECAST_TLS__CLIENT_CA_FILE needs KLINECAST_TLS__CERTIFICATE_FILE")
        return self

    @property
    def is_on(self) -> bool:
        """Whether the server speaks TLS."""
        return self.certificate_file is not None


class AuthSettings(Section):
    """Whose calls are answered; without either file everybody's."""

    jwks_file: str | None = None
    """Public keys of an identity provider (JWKS); JSON Web Tokens that it signed are accepted."""
    issuer: str | None = None
    """What tokens must say in `iss`."""
    audience: str | None = None
    """What tokens must say in `aud`."""
    tenant_claim: str = "tenant"
    """Claim that names the tenant; a path through objects is dotted."""
    roles_claim: str = "roles"
    """Claim that lists the roles: user, ingest, admin, service."""
    tokens_file: str | None = None
    """JSON list of hashed tokens; `python -m services.runtime.auth` makes its entries."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        for name in ("issuer", "audience"):
            if self.jwks_file is not None and getattr(self, name) is None:
                raise ValueError(f"KLINECAST_AUTH__{name.upper()} is required where KLINECAST_AUTH__JWKS_FILE is set")
        return self

    @property
    def is_on(self) -> bool:
        """Whether callers need a token."""
        return self.jwks_file is not None or self.tokens_file is not None


class ClientSettings(Section):
    """How this process calls other services."""

    ca_file: str | None = None
    """PEM of the authorities that sign the services' certificates, or `public`; none means plaintext."""
    certificate_file: str | None = None
    """PEM of this process's own certificate, where services ask for one."""
    key_file: str | None = None
    """PEM of its private key."""
    token_file: str | None = None
    """Token with role `service`; read again when it changes."""
    insecure_token_without_tls: bool = False
    """Sends the token in plaintext to other machines: for a mesh that encrypts by itself."""


class TracingSettings(Section):
    """Where spans go."""

    otlp_endpoint: str | None = None
    """host:port of an OTLP gRPC collector; none means that no span is exported. Its exporter logs it as it is."""
    otlp_insecure: bool = True
    """Without TLS, as collectors beside a pod are reached."""

    @field_validator("otlp_endpoint")
    @classmethod
    def _holds_no_secret(cls, value: str | None) -> str | None:
        if value is not None and "@" in value:
            raise ValueError("a collector's address holds no user and no password")
        return value


class ProcessSettings(BaseSettings):
    """What every process of the suite has: servers and workers."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter=DELIMITER, env_ignore_empty=True, extra="ignore", frozen=True
    )

    database: DatabaseSettings
    metrics_listen: str = "127.0.0.1:0"
    """host:port of the Prometheus page; port 0 takes a free one."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    shutdown: ShutdownSettings = ShutdownSettings()
    tracing: TracingSettings = TracingSettings()
    port_file: str | None = None
    """File that gets {"port": ..., "metrics_port": ...} (and "health_port") once the ports are bound."""
    supervisor_pipe_fd: int | None = Field(default=None, ge=0)
    """Inherited read end of a pipe; the process stops when its other end closes."""

    @field_validator("metrics_listen", "listen", "health_listen", check_fields=False)
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        if value is not None:
            split_address(value)
        return value


class RuntimeSettings(ProcessSettings):
    """What every server has; a service subclasses it and sets the defaults of its ports."""

    listen: str = "127.0.0.1:0"
    """host:port of the gRPC server; port 0 takes a free one."""
    health_listen: str | None = None
    """host:port of a plaintext server that answers health checks and nothing else, for probes that speak no TLS."""
    tls: TlsSettings = TlsSettings()
    auth: AuthSettings = AuthSettings()
    insecure_bind_without_tls: bool = False
    """Allows plaintext on an address other machines can reach."""
    insecure_bind_without_auth: bool = False
    """Answers everybody on an address other machines can reach."""
    reflection: bool = False
    limits: LimitSettings = LimitSettings()


Settings = TypeVar("Settings", bound=BaseSettings)


class SettingsError(Exception):
    """The environment does not make valid settings; `problems` has one line per name."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class EnvironmentScan:
    """The KLINECAST_ names in the environment that are no setting."""

    unknown: tuple[str, ...]
    ignored: tuple[str, ...]
    """What Kubernetes injects for Services; never read."""


def load_settings(cls: type[Settings]) -> Settings:
    """Read `cls` from the environment; raise SettingsError naming every bad and every unknown variable."""
    known = KNOWN_SETTINGS | setting_names(cls)
    problems = [_unknown_line(name, known) for name in scan_environment(cls).unknown]
    try:
        settings = cls()
    except ValidationError as error:
        raise SettingsError((*problems, *_error_lines(cls, error))) from None
    except SourceError as error:
        raise SettingsError((*problems, f"{PREFIX}*: {error}")) from None
    if problems:
        raise SettingsError(tuple(problems))
    return settings


def scan_environment(cls: type[BaseSettings]) -> EnvironmentScan:
    """Sort the KLINECAST_ names that no process of the suite knows into typing errors and what Kubernetes injects."""
    known = KNOWN_SETTINGS | setting_names(cls)
    strangers = sorted(name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known)
    ignored = tuple(name for name in strangers if _is_injected(name, os.environ[name]))
    return EnvironmentScan(unknown=tuple(name for name in strangers if name not in ignored), ignored=ignored)


def environment_without_settings() -> dict[str, str]:
    """Return the environment for a child that is to know nothing of this process's settings and secrets."""
    return {name: value for name, value in os.environ.items() if not name.upper().startswith(PREFIX)}


def forget_settings() -> None:
    """Take the settings out of this process's environment, once they are read: what runs in it need not see secrets."""
    for name in [name for name in os.environ if name.upper().startswith(PREFIX)]:
        del os.environ[name]


def setting_names(cls: type[BaseModel], prefix: str = PREFIX) -> frozenset[str]:
    """Return the environment names of all fields of `cls`, nested ones spelled with `__`."""
    names: set[str] = set()
    for field, info in cls.model_fields.items():
        name = prefix + field.upper()
        nested = _section(info.annotation)
        names |= setting_names(nested, name + DELIMITER) if nested else {name}
    return frozenset(names)


def show_settings(settings: BaseModel) -> str:
    """Return one NAME=value line per setting, secrets masked."""
    return "\n".join(f"{name}={value}" for name, value in sorted(_flatten(settings, PREFIX)))


def _flatten(model: BaseModel, prefix: str) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for field in type(model).model_fields:
        value, name = getattr(model, field), prefix + field.upper()
        if isinstance(value, BaseModel):
            lines += _flatten(value, name + DELIMITER)
        else:
            lines.append((name, _shown(value)))
    return lines


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str | SecretStr):
        return str(value)
    return json.dumps(value, default=str)


def _is_injected(name: str, value: str) -> bool:
    upper = name.upper()
    is_link = upper.endswith("_PORT") and _KUBERNETES_LINK.match(value) is not None
    return is_link or _KUBERNETES_NAME.fullmatch(upper) is not None


def _unknown_line(name: str, known: frozenset[str]) -> str:
    near = difflib.get_close_matches(name.upper(), known, n=1)
    return f"{name}: unknown setting" + (f"; did you mean {near[0]}?" if near else "")


def _error_lines(cls: type[BaseModel], error: ValidationError) -> list[str]:
    lines = []
    for one in error.errors(include_url=False, include_input=False):
        name = PREFIX + DELIMITER.join(str(part).upper() for part in one["loc"])
        nested = _section_at(cls, one["loc"])
        if one["type"] == "missing" and nested is not None:
            lines += [f"{name}{DELIMITER}{field}: is required" for field in _required(nested)]
        else:
            lines.append(f"{name}: {'is required' if one['type'] == 'missing' else one['msg']}")
    return lines


def _required(section: type[BaseModel]) -> list[str]:
    return [field.upper() for field, info in section.model_fields.items() if info.is_required()]


def _section(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _section_at(cls: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel] | None:
    section: type[BaseModel] | None = cls
    for part in location:
        info = section.model_fields.get(str(part)) if section else None
        section = _section(info.annotation) if info else None
    return section
