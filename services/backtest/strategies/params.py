"""Checks params against a strategy's model, all violations at once."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from klinecast.strategy import AnyStrategy
from services.backtest.strategies.errors import InvalidParams


def validate_params(strategy: AnyStrategy[BaseModel], params: Mapping[str, object]) -> BaseModel:
    """Return the params of a strategy with defaults filled in; InvalidParams lists every (field, message).

    A whole number is accepted for an int, as numbers of a protobuf Struct are always floats.
    """
    try:
        return strategy.Params.model_validate(dict(params))
    except ValidationError as error:
        known = list(strategy.Params.model_fields)
        raise InvalidParams([_violation(detail, known) for detail in error.errors(include_url=False)]) from None


def _violation(detail: ErrorDetails, known: list[str]) -> tuple[str, str]:
    field = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(field, known, n=1, cutoff=0.5)
        return field, "no such param; " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}")
    message = detail["msg"].removeprefix("Value error, ")
    if not field and ": " in message:
        field, message = message.split(": ", 1)
    return field, message
