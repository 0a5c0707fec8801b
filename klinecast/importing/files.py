"""Lines of a CSV file, packed or not, a batch at a time."""

from __future__ import annotations

import gzip
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from klinecast.importing.errors import ImportFormatError

MAX_LINE_BYTES = 4096
_CHUNK_BYTES = 1 << 17
_File = IO[bytes] | gzip.GzipFile
_BOM = b"\xef\xbb\xbf"


def read_lines(path: Path, *, batch: int) -> Iterator[tuple[int, list[bytes], float]]:
    """Yield (number of the first line, up to `batch` lines without their ends, share of the file read so far)."""
    number = 1
    try:
        with path.open("rb") as raw, _open(path, raw) as file:
            size = max(os.fstat(raw.fileno()).st_size, 1)
            for lines in _batches(_lines(path, file), batch):
                yield number, lines, min(raw.tell() / size, 1.0)
                number += len(lines)
    except (EOFError, zlib.error, zipfile.BadZipFile, gzip.BadGzipFile, NotImplementedError, RuntimeError) as error:
        raise ImportFormatError(f"the archive is damaged or of an unknown kind ({error})", path=path) from None
    except OSError as error:
        raise ImportFormatError(f"cannot be read ({error.strerror or error})", path=path) from None


def _batches(parts: Iterable[list[bytes]], size: int) -> Iterator[list[bytes]]:
    held: list[bytes] = []
    for part in parts:
        held += part
        while len(held) >= size:
            yield held[:size]
            del held[:size]
    if held:
        yield held


def _lines(path: Path, file: _File) -> Iterator[list[bytes]]:
    """Yield the whole lines of each chunk; the first has no byte order mark."""
    number, rest = 1, file.read(len(_BOM)).removeprefix(_BOM)
    while chunk := file.read(_CHUNK_BYTES):
        text = rest + chunk
        *lines, rest = (text.replace(b"\r\n", b"\n") if b"\r" in text else text).split(b"\n")
        number += len(lines)
        if len(rest) > MAX_LINE_BYTES:
            raise ImportFormatError(f"is longer than {MAX_LINE_BYTES:,} bytes", path=path, line=number)
        yield lines
    if rest:
        yield [rest]


@contextmanager
def _open(path: Path, raw: IO[bytes]) -> Iterator[_File]:
    name = path.name.lower()
    if name.endswith(".zip"):
        with _open_zip(path, raw) as file:
            yield file
    elif name.endswith(".gz"):
        with gzip.open(raw, "rb") as file:
            yield file
    elif name.endswith(".csv"):
        yield raw
    else:
        raise ImportFormatError("is none of .csv, .csv.gz, .zip", path=path)


@contextmanager
def _open_zip(path: Path, raw: IO[bytes]) -> Iterator[_File]:
    try:
        archive = zipfile.ZipFile(raw)
    except zipfile.BadZipFile as error:
        raise ImportFormatError(f"is not a zip archive ({error})", path=path) from None
    with archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        if len(names) != 1 or not names[0].lower().endswith(".csv"):
            raise ImportFormatError(f"must hold exactly one .csv file, it holds {names[:3]}", path=path)
        with archive.open(names[0]) as file:
            yield file
