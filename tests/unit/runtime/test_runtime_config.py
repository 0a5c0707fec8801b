"""Settings: what the environment may say and how mistakes are told."""

import subprocess
import sys

import pytest
from pydantic import SecretStr

from services.backtest.settings import BacktestSettings, WorkerSettings
from services.data.settings import DataSettings
from services.runtime.config import (
    DatabaseSettings,
    RuntimeSettings,
    SettingsError,
    load_settings,
    scan_environment,
    setting_names,
    show_settings,
)
from services.runtime.known_settings import KNOWN_SETTINGS

URL = "postgresql://klinecast:hunter2@db:5432/klinecast"


@pytest.fixture(autouse=True)
def _only_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLINECAST_DATABASE__URL", URL)


def test_nested_names_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLINECAST_DATABASE__POOL_SIZE", "3")
    monkeypatch.setenv("KLINECAST_SHUTDOWN__DRAIN_SECONDS", "1.5")
    settings = load_settings(RuntimeSettings)
    assert settings.database.pool_size == 3
    assert settings.shutdown.drain_seconds == 1.5
    assert settings.database.url.get_secret_value() == URL


@pytest.mark.parametrize("settings", [BacktestSettings, WorkerSettings])
def test_the_line_end_of_a_secrets_file_is_no_part_of_a_url(
    settings: type[BacktestSettings | WorkerSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KLINECAST_DATABASE__URL", f"{URL}\n")
    monkeypatch.setenv("KLINECAST_BROKER_URL", "redis://:secret@valkey/0\r\n")
    loaded = load_settings(settings)
    assert loaded.broker_url is not None
    assert (loaded.database.url.get_secret_value(), loaded.broker_url.get_secret_value()) == (
        URL,
        "redis://:secret@valkey/0",
    )


def test_watches_are_many_whatever_else_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLINECAST_LIMITS__TENANT_MAX_RPCS", "5")
    assert load_settings(BacktestSettings).limits.tenant_max_streams == 2000
    assert load_settings(DataSettings).limits.tenant_max_streams is None


def test_unknown_name_is_refused_with_a_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLINECAST_DATABASE__POOLSIZE", "3")
    with pytest.raises(SettingsError) as raised:
        load_settings(RuntimeSettings)
    assert raised.value.problems == (
        "KLINECAST_DATABASE__POOLSIZE: unknown setting; did you mean KLINECAST_DATABASE__POOL_SIZE?",
    )


def test_settings_of_other_processes_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLINECAST_RESULTS_TARGET", "localhost:50053")
    assert load_settings(RuntimeSettings).listen


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KLINECAST_DATA_SERVICE_HOST", "10.0.0.1"),
        ("KLINECAST_DATA_SERVICE_PORT", "50051"),
        ("KLINECAST_DATA_SERVICE_PORT_GRPC", "50051"),
        ("KLINECAST_DATA_PORT", "tcp://10.0.0.1:50051"),
        ("KLINECAST_DATA_PORT_50051_TCP", "tcp://10.0.0.1:50051"),
        ("KLINECAST_DATA_PORT_50051_TCP_ADDR", "10.0.0.1"),
        ("KLINECAST_SERVICE_HOST", "10.0.0.1"),
    ],
)
def test_names_injected_by_kubernetes_are_ignored(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    load_settings(RuntimeSettings)
    assert scan_environment(RuntimeSettings).ignored == (name,)


def test_a_port_that_is_no_link_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLINECAST_DATA_PORT", "50051")
    with pytest.raises(SettingsError, match="KLINECAST_DATA_PORT: unknown setting"):
        load_settings(RuntimeSettings)


def test_every_bad_value_is_named_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLINECAST_DATABASE__POOL_SIZE", "many")
    monkeypatch.setenv("KLINECAST_LISTEN", "localhost")
    with pytest.raises(SettingsError) as raised:
        load_settings(RuntimeSettings)
    assert [line.split(":")[0] for line in raised.value.problems] == [
        "KLINECAST_DATABASE__POOL_SIZE",
        "KLINECAST_LISTEN",
    ]


def test_missing_url_is_named_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KLINECAST_DATABASE__URL")
    with pytest.raises(SettingsError) as raised:
        load_settings(RuntimeSettings)
    assert raised.value.problems == ("KLINECAST_DATABASE__URL: is required",)


def test_bad_url_is_refused_without_repeating_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLINECAST_DATABASE__URL", "mysql://root:hunter2@db/x")
    with pytest.raises(SettingsError) as raised:
        load_settings(RuntimeSettings)
    assert raised.value.problems[0].startswith("KLINECAST_DATABASE__URL: ")
    assert "hunter2" not in str(raised.value)


def test_secrets_are_masked_when_shown() -> None:
    shown = show_settings(RuntimeSettings(database=DatabaseSettings(url=SecretStr(URL))))
    assert "KLINECAST_DATABASE__URL=**********" in shown
    assert "hunter2" not in shown
    assert "KLINECAST_SHUTDOWN__DRAIN_SECONDS=10.0" in shown


def test_runtime_names_are_known_to_all() -> None:
    assert setting_names(RuntimeSettings) <= KNOWN_SETTINGS


def test_a_mistake_ends_the_process_with_code_2_and_one_line() -> None:
    program = (
        "from services.runtime.config import RuntimeSettings\n"
        "from services.runtime.server import run\n"
        "run('data', RuntimeSettings, None, arguments=[])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={"KLINECAST_LOG_LEVL": "info", "KLINECAST_DATABASE__URL": URL},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "KLINECAST_LOG_LEVL: unknown setting; did you mean KLINECAST_LOG_LEVEL?\n"


def test_a_password_in_the_collectors_address_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLINECAST_TRACING__OTLP_ENDPOINT", "http://klinecast:hunter2@collector:4317")
    with pytest.raises(SettingsError) as raised:
        load_settings(RuntimeSettings)
    [problem] = raised.value.problems
    assert problem.startswith("KLINECAST_TRACING__OTLP_ENDPOINT: ")
    assert "hunter2" not in problem
