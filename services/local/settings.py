"""How the laptop deployment is told where to live."""

import hashlib
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.runtime.config import DELIMITER, PREFIX

CHECKOUT = Path(__file__).resolve().parents[2]


class LocalDatabase(BaseModel):
    """The part of the services' database settings that decides whether a Postgres is started."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    url: SecretStr | None = None
    """A Postgres of the user's own; none means the embedded one."""


class LocalSettings(BaseSettings):
    """Settings of the supervisor; what the services read besides is handed down untouched."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter=DELIMITER, env_ignore_empty=True, extra="ignore", frozen=True
    )

    home: Path | None = None
    """Where the database, logs and reports are kept; none means one place per checkout (see find_home)."""
    database: LocalDatabase = LocalDatabase()

    def find_home(self) -> Path:
        """Return the state directory; root's is outside /root, which the user who runs Postgres may not enter."""
        if self.home is not None:
            return self.home.expanduser().absolute()
        base = Path("/var/lib") if os.geteuid() == 0 else Path.home() / ".local" / "state"
        return base / "klinecast" / hashlib.sha256(os.fsencode(CHECKOUT)).hexdigest()[:12]
