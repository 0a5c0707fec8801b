"""Which files there are to import, and whether they are what their .CHECKSUM says."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from klinecast.importing.errors import ImportFormatError

SUFFIXES = (".csv", ".csv.gz", ".zip", ".parquet")
_CHECKSUM = ".CHECKSUM"
_LINE = re.compile(r"([0-9a-fA-F]{64})\s+\*?(\S.*)")


@dataclass(frozen=True, slots=True)
class FoundFiles:
    """What a list of files and directories comes to."""

    files: tuple[Path, ...]
    """Files to import: those named, and those in the directories, sorted by path in each."""
    skipped: tuple[Path, ...]
    """Other files in the directories; checksum files are neither."""


def find_files(paths: Sequence[Path]) -> FoundFiles:
    """Look into directories, recursively; raise ImportFormatError for one without a file to import."""
    files: list[Path] = []
    skipped: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        inside = sorted(one for one in path.rglob("*") if one.is_file() and not one.name.endswith(_CHECKSUM))
        found = [one for one in inside if one.name.lower().endswith(SUFFIXES)]
        if not found:
            raise ImportFormatError(f"holds no file to import ({', '.join(SUFFIXES)})", path=path)
        files += found
        skipped += [one for one in inside if one not in set(found)]
    return FoundFiles(tuple(dict.fromkeys(files)), tuple(skipped))


def verify_checksum(path: Path) -> bool:
    """Compare a file with FILE.CHECKSUM beside it: False when there is none, ImportFormatError when it differs."""
    beside = path.with_name(path.name + _CHECKSUM)
    if not beside.is_file():
        return False
    match = _LINE.fullmatch(beside.read_text("utf-8", "replace").strip())
    if match is None or match[2] != path.name:
        raise ImportFormatError(f"is not '<sha256>  {path.name}'", path=beside)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != match[1].lower():
        raise ImportFormatError(f"has the SHA-256 {found}, its {_CHECKSUM} says {match[1].lower()}", path=path)
    return True
