"""Checks shared by the dataclasses of klinecast.types: each raises ValueError naming the field."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import TypeVar

import numpy as np

_EnumT = TypeVar("_EnumT", bound=StrEnum)


def coerce_enum(kind: type[_EnumT], value: object, name: str) -> _EnumT:
    """Return the enum member a string names."""
    try:
        return kind(str(value))
    except ValueError:
        near = difflib.get_close_matches(str(value).upper(), list(kind), n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else f"; it is one of {', '.join(kind)}"
        raise ValueError(f"{name}: {value!r} is unknown{hint}") from None


def checked_number(value: object, name: str, low: float, high: float) -> float:
    """Return a finite number within [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise ValueError(f"{name}: {value!r} is not a number")
    number = float(value)
    if not math.isfinite(number) or not low <= number <= high:
        raise ValueError(f"{name}: {number:g} is outside {low:g}..{high:g}")
    return number


def require_known(values: Iterable[str], known: list[str]) -> None:
    """Refuse a name that is not known, with the nearest one that is."""
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            raise ValueError(f"{name}: no such field" + (f"; did you mean {near[0]}?" if near else ""))


def require_one_length(columns: Mapping[str, object]) -> None:
    """Refuse columns that are not one-dimensional and of one length."""
    shapes = {name: np.asarray(column).shape for name, column in columns.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise ValueError(f"columns must be one-dimensional and of one length, not {shapes}")


def plain_dict(values: Mapping[str, object]) -> dict[str, object]:
    """Return the values with enums as their strings."""
    return {name: value.value if isinstance(value, StrEnum) else value for name, value in values.items()}
