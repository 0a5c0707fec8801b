"""The published numbers kept beside the repository, as parameters of tests, and how many of them there have to be."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

FOLDER = Path(__file__).resolve().parents[4].parent / "shared" / "oracles"
ABSENT = "the published numbers are kept beside the repository, not in it"
COUNTS = {
    "backtesting_py.json": (13, 9),
    "freqtrade_backtest_detail.json": (15, 12),
    "freqtrade_fees_pnl.json": (37, 14),
    "vectorbt.json": (191, 43),
    "empyrical_stats.json": (46, 16),
    "talib_python_tests.json": (21, 5),
}
"""Per file: cases compared, cases out of scope. An adapter that loses a case, or skips one more, fails."""


class Case(NamedTuple):
    """One published case."""

    name: str
    given: Any
    """The row of the file."""
    out_of_scope: str | None = None
    """The feature it needs that the execution model does not have; None = it has to be met."""


@cache
def document(file: str) -> dict[str, Any] | None:
    """Return a file of published numbers, None where they are not kept."""
    path = FOLDER / file
    return json.loads(path.read_text()) if path.is_file() else None


def cases_of(file: str, make: Callable[[dict[str, Any]], list[Case]]) -> list[Case]:
    """Return the cases of a file; none where it is not kept."""
    found = document(file)
    return [] if found is None else make(found)


def parametrize(cases: Sequence[Case]) -> pytest.MarkDecorator:
    """Run a test over cases; those out of scope are skipped with their reason."""
    if not cases:
        return pytest.mark.parametrize("case", [pytest.param(None, marks=pytest.mark.skip(reason=ABSENT), id="absent")])
    return pytest.mark.parametrize("case", [_param(case) for case in cases])


def require_counts(file: str, cases: Sequence[Case]) -> None:
    """Fail where cases were lost or moved out of scope."""
    if document(file) is None:
        pytest.skip(ABSENT)
    compared = sum(case.out_of_scope is None for case in cases)
    assert (compared, len(cases) - compared) == COUNTS[file]
    names = [case.name for case in cases]
    assert len(set(names)) == len(names)


def number(value: float | str | None) -> float:
    """Return a published value: "nan" and "inf" are strings, null is NaN."""
    return float("nan") if value is None else float(value)


def _param(case: Case) -> Any:
    marks = [] if case.out_of_scope is None else [pytest.mark.skip(reason=f"out of scope: {case.out_of_scope}")]
    return pytest.param(case, id=case.name, marks=marks)
