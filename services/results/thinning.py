"""Equity for a chart: fewer rows that keep peaks and troughs (min/max of each stretch; LTTB may miss them)."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from klinecast.columns import Column

_KEPT = ("equity", "close")
_A_STRETCH = 2 * len(_KEPT)


class Thinner:
    """Takes rows in order, chunk by chunk, and keeps at most so many of them; holds what it keeps and no more."""

    def __init__(self, total_rows: int, max_points: int) -> None:
        stretches = max((max_points - 2) // _A_STRETCH, 1)
        self._total = total_rows
        self._fed = 0
        self._edges = np.linspace(0, total_rows, stretches + 1).astype(np.int64)
        self._whole = total_rows <= max_points
        self._kept: list[dict[str, Column]] = []
        self._open: dict[str, Column] = {}
        """Candidates of the stretch that the last chunk ended in, with their row numbers."""

    def feed(self, columns: dict[str, Column]) -> None:
        """Take the next rows, at least one."""
        rows = np.arange(self._fed, self._fed + len(columns["equity"]))
        self._fed += len(rows)
        chunk = columns | {"row": rows}
        if self._whole:
            self._kept.append(chunk)
            return
        if self._open:
            chunk = {name: np.concatenate([self._open[name], chunk[name]]) for name in chunk}
        ends = np.searchsorted(chunk["row"], self._edges)
        borders = np.flatnonzero((chunk["row"] == 0) | (chunk["row"] == self._total - 1))
        picked = _picked(chunk, np.unique(np.append(ends, len(chunk["row"]))), borders)
        last = int(np.searchsorted(self._edges, rows[-1], side="right")) - 1
        still_open = (chunk["row"][picked] >= self._edges[last]) & (rows[-1] + 1 < self._edges[last + 1])
        self._kept.append({name: column[picked[~still_open]] for name, column in chunk.items()})
        self._open = {name: column[picked[still_open]] for name, column in chunk.items()}

    def finish(self) -> dict[str, Column]:
        """Return what was kept, in order."""
        names = [name for name in (self._kept[0] if self._kept else ()) if name != "row"]
        return {name: np.concatenate([one[name] for one in self._kept]) for name in names}


def _picked(chunk: dict[str, Column], ends: NDArray[np.int64], borders: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the indices of each stretch's lowest and highest values, and of the very first and last row."""
    picked = set(borders.tolist())
    for start, stop in itertools.pairwise(ends.tolist()):
        for name in _KEPT:
            values = chunk[name][start:stop]
            picked.update((start + int(values.argmin()), start + int(values.argmax())))
    return np.array(sorted(picked), dtype=np.int64)
