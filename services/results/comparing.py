"""Results side by side: their statistics, and where what was asked or read differs. Pure: mappings in, rows out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence

_SELF = ("manifest.continued_from",)
"""Says which result it went on from: no difference in what was asked or read."""


def compare_statistics(statistics: Sequence[Mapping[str, float]]) -> list[tuple[str, list[float]]]:
    """Return every statistic by name with one value a result, NaN where it is undefined."""
    names = sorted({name for one in statistics for name in one})
    return [(name, [one.get(name, math.nan) for one in statistics]) for name in names]


def compare_documents(documents: Sequence[Mapping[str, object]]) -> list[tuple[str, list[str]]]:
    """Return each path at which JSON documents differ, with one text a document: JSON, empty where it is absent."""
    flat = [dict(_leaves("", document)) for document in documents]
    paths = dict.fromkeys(path for one in flat for path in one)
    rows = ((path, [one.get(path, "") for one in flat]) for path in paths if path not in _SELF)
    return [(path, texts) for path, texts in rows if len(set(texts)) > 1]


def _leaves(path: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for name, one in value.items():
            yield from _leaves(f"{path}.{name}" if path else str(name), one)
    elif isinstance(value, list) and value:
        for index, one in enumerate(value):
            yield from _leaves(f"{path}[{index}]", one)
    elif isinstance(value, float) and value.is_integer():
        yield path, f"{value:.0f}"  # numbers of a Struct are doubles, also those that were sent as integers
    else:
        yield path, json.dumps(value)
