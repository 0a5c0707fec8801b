"""klinecast import: files of klines, as many as there are, each checked before it is sent."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from klinecast.cli._import_progress import ImportProgress
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
    usage_error,
)
from klinecast.client import Client, IngestSummary, SeriesKey
from klinecast.importing import FORMATS, ImportFormatError, find_files, read_klines, verify_checksum

_COUNTS = ("inserted", "updated", "unchanged", "rejected")
_SHOWN = 5
_FilesArgument = Annotated[
    list[Path], typer.Argument(exists=True, readable=True, help="files, or directories to look for files in")
]
_FormatOption = Annotated[str, typer.Option("--format", help=f"one of {', '.join(FORMATS)}; auto goes by file name")]


@dataclasses.dataclass(frozen=True, slots=True)
class _Imported:
    """A file that was imported."""

    path: Path
    summary: IngestSummary
    checksum_ok: bool
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class _Refused:
    """A file that was not, or not to its end."""

    error: ImportFormatError
    klines_sent: int

    def __str__(self) -> str:
        sent = f" (the {self.klines_sent:,} klines before that were sent)" if self.klines_sent else ""
        return f"{self.error}{sent}"


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
    if format not in FORMATS:
        raise usage_error("--format", f"{format!r} is none of {', '.join(FORMATS)}")
    found = _find(files)
    session: Session = context.obj
    done: list[_Imported] = []
    refused: list[_Refused] = []
    progress = ImportProgress(found, quiet=as_json)
    try:
        with session.client() as client:
            for path in found:
                one = _import_file(client, key, path, format, progress)
                if isinstance(one, _Refused):
                    refused.append(one)
                    continue
                done.append(one)
                if not as_json:
                    _print_file(one)
        _print_json(done, refused) if as_json else _print_total(done, refused)
    finally:
        for problem in refused:
            print_error(str(problem))
    if refused:
        raise typer.Exit(1)


def _find(paths: Sequence[Path]) -> Sequence[Path]:
    try:
        found = find_files(paths)
    except ImportFormatError as error:
        print_error(str(error))
        raise typer.Exit(1) from None
    if found.skipped:
        names = ", ".join(path.name for path in found.skipped[:_SHOWN])
        more = ", ..." if len(found.skipped) > _SHOWN else ""
        sys.stderr.write(f"skipped {len(found.skipped)} other files: {names}{more}\n")
    return found.files


def _import_file(
    client: Client, key: SeriesKey, path: Path, file_format: str, progress: ImportProgress
) -> _Imported | _Refused:
    start = time.perf_counter()
    with progress.file(path) as counter:
        try:
            checksum_ok = verify_checksum(path)
            summary = client.ingest_klines(key, counter.count(read_klines(path, format=file_format)))
        except ImportFormatError as error:
            return _Refused(error, counter.klines)
    return _Imported(path, summary, checksum_ok, time.perf_counter() - start)


def _print_file(one: _Imported) -> None:
    checksum = ", checksum ok" if one.checksum_ok else ""
    print(f"{one.path}: {_describe([one])}{checksum} ({_speed([one])})", flush=True)
    for bad in one.summary.rejections[:_SHOWN]:
        print(f"  rejected row {bad.index} ({format_time(bad.open_time_ms)}): {bad.field} {bad.reason}")
    if one.summary.rejected > _SHOWN:
        print(f"  and {one.summary.rejected - _SHOWN:,} more")


def _print_total(done: Sequence[_Imported], refused: Sequence[_Refused]) -> None:
    if len(done) + len(refused) > 1 and done:
        problems = f", {len(refused)} files refused" if refused else ""
        print(f"total of {len(done)} files: {_describe(done)}{problems} ({_speed(done)})", flush=True)


def _print_json(done: Sequence[_Imported], refused: Sequence[_Refused]) -> None:
    files = [
        {"file": str(one.path), "checksum_ok": one.checksum_ok, "seconds": one.seconds}
        | dataclasses.asdict(one.summary)
        for one in done
    ]
    problems = [
        {
            "file": str(one.error.path),
            "line": one.error.line,
            "problem": one.error.problem,
            "klines_sent": one.klines_sent,
        }
        for one in refused
    ]
    print_json({"files": files, "refused": problems, "total": _total(done)})


def _describe(done: Sequence[_Imported]) -> str:
    return ", ".join(f"{name} {count}" for name, count in _total(done).items())


def _speed(done: Sequence[_Imported]) -> str:
    return f"{sum(_total(done).values()) / sum(one.seconds for one in done):,.0f} klines/s"


def _total(done: Sequence[_Imported]) -> dict[str, int]:
    return {name: sum(int(getattr(one.summary, name)) for one in done) for name in _COUNTS}
