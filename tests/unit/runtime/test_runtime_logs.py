"""Logging: lines are JSON and hold no secret."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from services.runtime.logs import configure_logging, get_logger, redact


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.parametrize(
    "text",
    [
        "cannot reach postgresql://klinecast:hunter2@db:5432/klinecast",
        "cannot reach postgresql+psycopg://klinecast:hu@hunter2@db/klinecast",
        "host=db user=klinecast password=hunter2 dbname=x",
        "password='hunter2'",
    ],
)
def test_passwords_are_masked_in_texts(text: str) -> None:
    assert "hunter2" not in redact(text)


def test_lines_are_json_with_service_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json", "data")
    get_logger("test").info("listening", port=50051, api_key="hunter2")
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["service"], line["port"], line["api_key"]) == ("listening", "data", 50051, "***")


def test_tracebacks_of_libraries_lose_their_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json", "data")
    try:
        raise ValueError("postgresql://klinecast:hunter2@db/x")
    except ValueError:
        logging.getLogger("some.package").exception("failed for %s", "postgresql://klinecast:hunter2@db/x")
    err = capsys.readouterr().err
    assert "hunter2" not in err
    assert "ValueError" in json.loads(err)["exception"]


def test_lines_below_the_level_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("warning", "json", "data")
    get_logger("test").info("quiet")
    logging.getLogger("some.package").info("quiet")
    assert capsys.readouterr().err == ""
