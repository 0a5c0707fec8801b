"""Live bars of an import on standard error: the file at hand and, of several, all of them; they move by bytes read."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from klinecast.columns import Column
from klinecast.importing import ImportBatch

_COLUMNS = ("{task.description}", "{task.fields[klines]:,} klines", "{task.fields[rate]:,.0f} klines/s")


class ImportProgress:
    """The bars of one run over files, shown where somebody looks on and only while a file is imported."""

    def __init__(self, files: Sequence[Path], *, quiet: bool) -> None:
        console = Console(stderr=True)
        name, klines, rate = map(TextColumn, _COLUMNS)
        self._bars = Progress(
            *(name, BarColumn(), TaskProgressColumn(), klines, rate, TimeElapsedColumn()),
            console=console,
            transient=True,
            redirect_stdout=False,
            disable=quiet or not console.is_interactive,
        )
        self._sizes = {path: path.stat().st_size if path.exists() else 0 for path in files}
        self._file = _Bar(self._bars)
        self._all = _Bar(self._bars) if len(files) > 1 else None
        if self._all:
            self._all.begin("all files", sum(self._sizes.values()))

    @contextmanager
    def file(self, path: Path) -> Iterator[FileProgress]:
        """Show the bars while the block imports a file; the bytes of a refused one count as read."""
        self._file.begin(path.name, self._sizes[path])
        progress = FileProgress([bar for bar in (self._file, self._all) if bar], self._sizes[path])
        self._bars.start()
        try:
            yield progress
        finally:
            progress.finish()
            self._bars.stop()


class FileProgress:
    """Counts the klines of one file as they go."""

    def __init__(self, bars: Sequence[_Bar], size: int) -> None:
        self._bars = bars
        self._size = size
        self._read = 0.0
        self.klines = 0
        """Klines handed on so far."""

    def count(self, batches: Iterable[ImportBatch]) -> Iterator[Mapping[str, Column]]:
        """Yield the columns of each batch, moving the bars."""
        for batch in batches:
            self.klines += len(batch)
            yield batch.columns
            self._move(batch.fraction * self._size, len(batch))

    def finish(self) -> None:
        """Move the bars to the end of the file."""
        self._move(self._size, 0)

    def _move(self, read: float, klines: int) -> None:
        for bar in self._bars:
            bar.advance(read - self._read, klines)
        self._read = read


class _Bar:
    """A bar and the klines it stands for."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task: TaskID = bars.add_task("", klines=0, rate=0)
        self._klines = 0
        self._start = 0.0

    def begin(self, name: str, size: int) -> None:
        self._klines, self._start = 0, time.perf_counter()
        self._bars.reset(self._task, total=max(size, 1), description=name, klines=0, rate=0)

    def advance(self, size: float, klines: int) -> None:
        self._klines += klines
        rate = self._klines / (time.perf_counter() - self._start)
        self._bars.update(self._task, advance=size, klines=self._klines, rate=rate)
