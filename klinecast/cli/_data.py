"""klinecast import, series, gaps, strategies."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
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
    print_rows,
)
from klinecast.client import Client, IngestSummary, SeriesKey
from klinecast.columns import Column
from klinecast.importing import ImportFormatError, read_klines

_COUNTS = ("inserted", "updated", "unchanged", "rejected")


def register(app: typer.Typer) -> None:
    """Add the commands to the top level."""
    app.command("import", help="Import files of klines (.csv, .csv.gz, .zip).")(import_)
    app.command("series", help="List the stored series.")(series)
    app.command("gaps", help="List the runs of missing klines of a series.")(gaps)
    app.command("strategies", help="List the strategies that can be backtested.")(strategies)


def import_(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, readable=True, help="files to import")],
    symbol: SymbolOption,
    interval: IntervalOption,
    venue: VenueOption = "BINANCE",
    market_type: MarketTypeOption = "spot",
    format: Annotated[str, typer.Option("--format", help="binance or auto")] = "auto",  # noqa: A002
    as_json: JsonOption = False,
) -> None:
    """Import files; sending a file again changes nothing."""
    key = parse_series(symbol, interval, venue, market_type)
    session: Session = context.obj
    documents = []
    with session.client() as client, _progress() as progress:
        for path in files:
            task = progress.add_task(path.name, total=None, klines=0)
            try:
                summary = client.ingest_klines(key, _batches(path, format, progress, task))
            except ImportFormatError as error:
                progress.stop()
                print_error(str(error))
                raise typer.Exit(1) from None
            documents.append({"file": str(path), **_summary_document(summary)})
    total = {name: sum(int(str(one[name])) for one in documents) for name in _COUNTS}
    if as_json:
        print_json({"files": documents, "total": total})
        return
    for document in documents:
        _print_summary(document)
    if len(documents) > 1:
        print("total: " + ", ".join(f"{name} {count}" for name, count in total.items()))


def series(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the stored series."""
    with _client(context) as client:
        found = list(client.list_series())
    if as_json:
        print_json([_series_document(one.series) | _without_series(dataclasses.asdict(one)) for one in found])
        return
    rows = (
        (
            one.series,
            one.kline_count,
            format_time(one.first_open_time_ms),
            format_time(one.last_open_time_ms),
            one.gap_count,
            one.revision,
        )
        for one in found
    )
    print_rows(("series", "klines", "first (UTC)", "last (UTC)", "gaps", "revision"), rows)


def gaps(
    context: typer.Context,
    symbol: SymbolOption,
    interval: IntervalOption,
    venue: VenueOption = "BINANCE",
    market_type: MarketTypeOption = "spot",
    as_json: JsonOption = False,
) -> None:
    """List the runs of missing klines."""
    key = parse_series(symbol, interval, venue, market_type)
    with _client(context) as client:
        found = list(client.list_gaps(key))
    if as_json:
        print_json([dataclasses.asdict(gap) for gap in found])
        return
    rows = (
        (format_time(gap.first_open_time_ms), format_time(gap.last_open_time_ms), gap.missing_count) for gap in found
    )
    print_rows(("first missing (UTC)", "last missing (UTC)", "missing"), rows)


def strategies(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the strategies with their params."""
    with _client(context) as client:
        found = client.list_strategies()
    if as_json:
        print_json([dataclasses.asdict(strategy) for strategy in found])
        return
    rows = ((one.name, one.version, _describe_params(one.params_schema), one.description) for one in found)
    print_rows(("strategy", "version", "params", "description"), rows)


def _client(context: typer.Context) -> Client:
    session: Session = context.obj
    return session.client()


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[klines]:,} klines"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def _batches(path: Path, file_format: str, progress: Progress, task: TaskID) -> Iterator[Mapping[str, Column]]:
    done = 0
    for batch in read_klines(path, format=file_format):
        yield batch.columns
        done += len(batch)
        progress.update(task, klines=done)


def _summary_document(summary: IngestSummary) -> dict[str, object]:
    return dataclasses.asdict(summary)


def _print_summary(document: Mapping[str, object]) -> None:
    print(f"{document['file']}: " + ", ".join(f"{name} {document[name]}" for name in _COUNTS))
    rejections = document["rejections"]
    for one in rejections[:5] if isinstance(rejections, (list, tuple)) else ():
        print(f"  rejected row {one['index']} ({format_time(one['open_time_ms'])}): {one['field']} {one['reason']}")


def _series_document(key: SeriesKey) -> dict[str, object]:
    return {
        "venue": key.venue,
        "market_type": key.market_type.value,
        "symbol": key.symbol,
        "interval": key.interval.value,
    }


def _without_series(document: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in document.items() if name != "series"}


def _describe_params(schema: Mapping[str, object]) -> str:
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return "-"
    return " ".join(
        f"{name}={_short(one['default'])}" if "default" in one else name for name, one in sorted(properties.items())
    )


def _short(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value
