"""Reports of what is stored: reads the columns a page needs and renders it in a thread, one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import numpy as np

from klinecast.columns import Column
from klinecast.models import Result
from klinecast.report import compared_result, render_comparison, render_report, report_data
from klinecast.report.data import ComparisonData

Columns = dict[str, Column]
Rows = Callable[[str, str], AsyncIterator[Columns]]
"""Yields the rows of a result by id and kind, stretch after stretch."""


class Reporter:
    """Renders one result, or several side by side; memory is that of one report, whatever is asked for at once."""

    def __init__(self) -> None:
        self._one_at_a_time = asyncio.Semaphore()

    async def render(self, result: Result, rows: Rows) -> str:
        """Render the report of a result."""
        async with self._one_at_a_time:
            equity, trades = [await _joined(rows(result.result_id, kind)) for kind in ("equity", "trades")]
            return await asyncio.to_thread(lambda: render_report(report_data(result, equity, trades)))

    async def compare(
        self, results: Sequence[Result], differences: Sequence[tuple[str, Sequence[str]]], rows: Rows
    ) -> str:
        """Render the comparison of results."""
        async with self._one_at_a_time:
            compared = [compared_result(one, await _joined(rows(one.result_id, "equity"))) for one in results]
            data = ComparisonData(results=compared, differences=dict(differences))
            return await asyncio.to_thread(render_comparison, data)


async def _joined(stretches: AsyncIterator[Columns]) -> Columns:
    parts = [one async for one in stretches]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
