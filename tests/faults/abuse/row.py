"""One row of the catalogue of abuse, as it was found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """What was done, what came of it and whether that is within the limit."""

    row: str
    injected: str
    seen: str
    """The status callers got."""
    figure: str
    limit: str
    held: bool

    def __str__(self) -> str:
        return " | ".join((*self._cells(), "held" if self.held else "NOT HELD"))

    def _cells(self) -> tuple[str, ...]:
        return self.row, self.injected, self.seen, self.figure, self.limit


def table(rows: Iterable[Row]) -> str:
    """Return rows as a Markdown table."""
    lines = [f"| {row} |" for row in rows]
    return "\n".join(["| row | injected | seen | figure | limit | |", "|---|---|---|---|---|---|", *lines])
