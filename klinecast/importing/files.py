"""Lines of a CSV file, packed or not, a batch at a time."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO

from klinecast.importing.errors import ImportFormatError

MAX_LINE_BYTES = 4096
_BOM = b"\xef\xbb\xbf"


def read_lines(path: Path, *, batch: int) -> Iterator[tuple[int, list[bytes], float]]:
    """Yield (number of the first line, up to `batch` lines without their ends, share of the file read so far)."""
    number, size = 1, max(path.stat().st_size, 1)
    with path.open("rb") as raw, _open(path, raw) as file:
        while lines := _take(file, path, batch, number):
            yield number, lines, min(raw.tell() / size, 1.0)
            number += len(lines)


def _take(file: IO[bytes], path: Path, batch: int, number: int) -> list[bytes]:
    try:
        lines = [line.rstrip(b"\r\n") for line in islice(iter(lambda: file.readline(MAX_LINE_BYTES), b""), batch)]
    except (EOFError, OSError, zlib.error, zipfile.BadZipFile) as error:
        raise ImportFormatError(f"the archive is damaged ({error})", path=path) from None
    if number == 1 and lines:
        lines[0] = lines[0].removeprefix(_BOM)
    return lines


@contextmanager
def _open(path: Path, raw: IO[bytes]) -> Iterator[IO[bytes]]:
    name = path.name.lower()
    if name.endswith(".zip"):
        with _open_zip(path, raw) as file:
            yield file
    elif name.endswith(".gz"):
        with gzip.open(raw, "rb") as packed, io.BufferedReader(packed) as file:
            yield file
    elif name.endswith(".csv"):
        yield raw
    else:
        raise ImportFormatError("is none of .csv, .csv.gz, .zip, .parquet", path=path)


@contextmanager
def _open_zip(path: Path, raw: IO[bytes]) -> Iterator[IO[bytes]]:
    try:
        archive = zipfile.ZipFile(raw)
    except zipfile.BadZipFile as error:
        raise ImportFormatError(f"is not a zip archive ({error})", path=path) from None
    with archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        if len(names) != 1 or not names[0].lower().endswith(".csv"):
            raise ImportFormatError(f"must hold exactly one .csv file, it holds {names[:3]}", path=path)
        with archive.open(names[0]) as member, io.BufferedReader(member) as file:  # type: ignore[type-var]
            yield file
