"""Where the laptop deployment lives and whether it brings its own database."""

from pathlib import Path

import pytest

from services.local import settings
from services.local.settings import LocalSettings
from services.runtime.config import load_settings


def test_home_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KLINECAST_HOME", str(tmp_path))
    assert load_settings(LocalSettings).find_home() == tmp_path


def test_each_checkout_has_a_home_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = LocalSettings().find_home()
    monkeypatch.setattr(settings, "CHECKOUT", tmp_path)
    assert LocalSettings().find_home() != first


@pytest.mark.parametrize(
    ("uid", "parent"), [(0, Path("/var/lib/klinecast")), (1000, Path("/u/.local/state/klinecast"))]
)
def test_default_home_is_the_users_and_roots_is_outside_its_home(
    monkeypatch: pytest.MonkeyPatch, uid: int, parent: Path
) -> None:
    monkeypatch.setenv("HOME", "/u")
    monkeypatch.setattr("os.geteuid", lambda: uid)
    assert LocalSettings().find_home().parent == parent


def test_database_url_replaces_the_embedded_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(LocalSettings).database.url is None
    monkeypatch.setenv("KLINECAST_DATABASE__URL", "postgresql://u:secret@db/k")
    monkeypatch.setenv("KLINECAST_DATABASE__POOL_SIZE", "3")
    loaded = load_settings(LocalSettings)
    assert loaded.database.url is not None
    assert "secret" not in repr(loaded)
