"""Logging: one JSON object per line on standard error, with the current span's ids and no secrets."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog
from opentelemetry import trace

Logger = structlog.stdlib.BoundLogger
_MASK = "***"
_URL_PASSWORD = re.compile(r"(?P<head>[a-z][a-z0-9+.-]*://[^\s:/@]*:)\S+(?=@)", re.IGNORECASE)
_KEYWORD_PASSWORD = re.compile(
    r"(?P<head>\b(?:password|passwd|token|secret)\s*[=:]\s*)('[^']*'|[^\s,;&)]+)", re.IGNORECASE
)
_SECRET_KEYS = re.compile(r"password|passwd|secret|token$|authorization|credential|api_?key", re.IGNORECASE)


def configure_logging(level: str, log_format: str, service: str) -> None:
    """Route structlog and the standard library through one handler; call once per process."""
    shared = _processors(service)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(log_format, shared))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    logging.getLogger("alembic").setLevel(max(logging.WARNING, root.level))


def get_logger(name: str) -> Logger:
    """Return a logger; its methods take an event name and key=value pairs."""
    logger: Logger = structlog.stdlib.get_logger(name)
    return logger


def redact(text: str) -> str:
    """Mask passwords of URLs and of key=value pairs in a text."""
    return _KEYWORD_PASSWORD.sub(rf"\g<head>{_MASK}", _URL_PASSWORD.sub(rf"\g<head>{_MASK}", text))


def _processors(service: str) -> list[Any]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _ServiceName(service),
        _add_trace_ids,
        structlog.processors.format_exc_info,
        _mask_secrets,
    ]


def _formatter(log_format: str, shared: list[Any]) -> logging.Formatter:
    renderer: Any = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    if log_format == "json":
        renderer = structlog.processors.JSONRenderer(default=str)
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )


class _ServiceName:
    def __init__(self, service: str) -> None:
        self._service = service

    def __call__(self, logger: object, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("service", self._service)
        return event


def _add_trace_ids(logger: object, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event["trace_id"] = trace.format_trace_id(span.trace_id)
        event["span_id"] = trace.format_span_id(span.span_id)
    return event


def _mask_secrets(logger: object, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if _SECRET_KEYS.search(key):
            event[key] = _MASK
        elif isinstance(value, str):
            event[key] = redact(value)
    return event
