"""klinecast import: files of klines, as many as there are, each checked before it is sent."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from klinecast.cli._session import (
    IntervalOption,
    JsonOption,
    MarketTypeOption,
    Session,
    SymbolOption,
    VenueOption,
    format_time,
    parse_series,
    print_error,
    print_json,
)
from klinecast.client import Client, IngestSummary, SeriesKey
from klinecast.columns import Column
from klinecast.importing import FoundFiles, ImportFormatError, find_files, read_klines, verify_checksum

_COUNTS = ("inserted", "updated", "unchanged", "rejected")
_FilesArgument = Annotated[
    list[Path], typer.Argument(exists=True, readable=True, help="files, or directories to look for files in")
]
_FormatOption = Annotated[str, typer.Option("--format", help="auto, binance or parquet")]


@dataclasses.dataclass(frozen=True, slots=True)
class _Imported:
    """One file that was imported."""

    path: Path
    summary: IngestSummary
    checksum_ok: bool
    seconds: float

    @property
    def klines(self) -> int:
        return sum(int(getattr(self.summary, name)) for name in _COUNTS)


def register(app: typer.Typer) -> None:
    """Add the command to the top level."""
    app.command("import", help="Import files of klines (.csv, .csv.gz, .zip, .parquet) or directories of them.")(
        import_
    )


def import_(
    context: typer.Context,
    files: _FilesArgument,
    symbol: SymbolOption,
    interval: IntervalOption,
    venue: VenueOption = "BINANCE",
    market_type: MarketTypeOption = "spot",
    format: _FormatOption = "auto",  # noqa: A002
    as_json: JsonOption = False,
) -> None:
    """Import files; sending a file again changes nothing. A refused file does not stop the others."""
    key = parse_series(symbol, interval, venue, market_type)
    session: Session = context.obj
    try:
        found = find_files(files)
    except ImportFormatError as error:
        print_error(str(error))
        raise typer.Exit(1) from None
    refused: list[ImportFormatError] = []
    with session.client() as client, _Meter(found.files, quiet=as_json) as meter:
        done = list(_import_all(client, key, found.files, format, meter, refused))
    _print_json(done, refused) if as_json else _print(found, done)
    for problem in refused:
        print_error(str(problem))
    if refused:
        raise typer.Exit(1)


def _import_all(
    client: Client,
    key: SeriesKey,
    files: Sequence[Path],
    file_format: str,
    meter: _Meter,
    refused: list[ImportFormatError],
) -> Iterator[_Imported]:
    for path in files:
        start = time.perf_counter()
        try:
            checksum_ok = verify_checksum(path)
            summary = client.ingest_klines(key, meter.batches(path, file_format))
        except ImportFormatError as error:
            refused.append(error)
        else:
            yield _Imported(path, summary, checksum_ok, time.perf_counter() - start)
        meter.end_file(path)


class _Meter:
    """The progress bar of all files, on standard error where somebody looks on; it moves by bytes read."""

    def __init__(self, files: Sequence[Path], *, quiet: bool) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[klines]:,} klines"),
            TextColumn("{task.fields[rate]:,.0f}/s"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._total = len(files)
        self._number = 0
        self._bytes_before = 0
        self._klines = 0
        self._start = time.perf_counter()
        self._task: TaskID = self._progress.add_task(
            "", total=sum(one.stat().st_size for one in files), klines=0, rate=0
        )

    def __enter__(self) -> _Meter:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def batches(self, path: Path, file_format: str) -> Iterator[Mapping[str, Column]]:
        """Yield the klines of a file, moving the bar."""
        self._number += 1
        self._progress.update(self._task, description=f"{path.name} ({self._number} of {self._total})")
        size = path.stat().st_size
        for batch in read_klines(path, format=file_format):
            yield batch.columns
            self._klines += len(batch)
            rate = self._klines / (time.perf_counter() - self._start)
            completed = self._bytes_before + batch.fraction * size
            self._progress.update(self._task, completed=completed, klines=self._klines, rate=rate)

    def end_file(self, path: Path) -> None:
        """Count a file as done, refused ones too."""
        self._bytes_before += path.stat().st_size


def _print(found: FoundFiles, done: Sequence[_Imported]) -> None:
    if found.skipped:
        names = ", ".join(path.name for path in found.skipped[:5])
        sys.stderr.write(f"skipped {len(found.skipped)} other files: {names}\n")
    for one in done:
        checksum = ", checksum ok" if one.checksum_ok else ""
        counts = ", ".join(f"{name} {getattr(one.summary, name)}" for name in _COUNTS)
        print(f"{one.path}: {counts}{checksum} ({one.klines / one.seconds:,.0f} klines/s)")
        for bad in one.summary.rejections[:5]:
            print(f"  rejected row {bad.index} ({format_time(bad.open_time_ms)}): {bad.field} {bad.reason}")
    if len(done) > 1:
        total, seconds = _total(done), sum(one.seconds for one in done)
        klines = sum(total.values())
        print(
            f"total: {', '.join(f'{name} {count}' for name, count in total.items())} ({klines / seconds:,.0f} klines/s)"
        )


def _print_json(done: Sequence[_Imported], refused: Sequence[ImportFormatError]) -> None:
    files = [{"file": str(one.path), "checksum_ok": one.checksum_ok, **dataclasses.asdict(one.summary)} for one in done]
    problems = [{"file": str(error.path), "line": error.line, "problem": error.problem} for error in refused]
    print_json({"files": files, "refused": problems, "total": _total(done)})


def _total(done: Sequence[_Imported]) -> dict[str, int]:
    return {name: sum(int(getattr(one.summary, name)) for one in done) for name in _COUNTS}
