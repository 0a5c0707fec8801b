"""A live progress bar on standard error while events come in."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from klinecast.client import BacktestEvent

_COLUMNS = ("{task.description}", "{task.fields[klines]}", "{task.fields[equity]}", "{task.fields[left]}")


def follow(events: Iterator[BacktestEvent], seen: list[BacktestEvent]) -> None:
    """Show events until the terminal one; they are appended to `seen` as they come."""
    state, klines, equity, left = map(TextColumn, _COLUMNS)
    columns = (state, BarColumn(), TaskProgressColumn(), klines, equity, TimeElapsedColumn(), left)
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("SENT", total=1.0, klines="", equity="", left="")
        for event in events:
            seen.append(event)
            progress.update(
                task,
                description=event.phase if event.state == "RUNNING" and event.phase else event.state,
                completed=event.fraction_done,
                klines=f"{event.klines_done:,}/{event.klines_total:,} klines" if event.klines_total else "",
                equity=f"equity {event.equity:,.2f}" if event.equity is not None else "",
                left=f"{event.eta_s:,.0f} s left" if event.eta_s is not None else "",
            )
