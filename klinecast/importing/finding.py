"""Which files there are to import, and whether they are what their .CHECKSUM says."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from klinecast.importing.errors import ImportFormatError

SUFFIXES = (".csv", ".csv.gz", ".zip", ".parquet")
CHECKSUM = ".CHECKSUM"
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
        if path.is_dir():
            found, others = _look_into(path)
            files += found
            skipped += others
        elif not path.name.endswith(CHECKSUM):
            files.append(path)
    if not files:
        raise ImportFormatError("is a checksum, not a file to import", path=paths[0])
    return FoundFiles(tuple(dict.fromkeys(files)), tuple(dict.fromkeys(skipped)))


def verify_checksum(path: Path) -> bool:
    """Compare a file with FILE.CHECKSUM beside it: False when there is none, ImportFormatError when it differs."""
    beside = path.with_name(path.name + CHECKSUM)
    if not beside.exists():
        return False
    try:
        match = _LINE.fullmatch(beside.read_text("utf-8", "replace").strip())
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ImportFormatError(f"cannot be compared with its {CHECKSUM} ({error.strerror})", path=path) from None
    if match is None or match[2] != path.name:
        raise ImportFormatError(f"must hold '<sha256>  {path.name}' and nothing else", path=beside)
    if found != match[1].lower():
        raise ImportFormatError(f"has the SHA-256 {found}, its {CHECKSUM} expects {match[1].lower()}", path=path)
    return True


def _look_into(directory: Path) -> tuple[list[Path], list[Path]]:
    inside = sorted(one for one in directory.rglob("*") if not one.is_dir() and not one.name.endswith(CHECKSUM))
    found = [one for one in inside if one.name.lower().endswith(SUFFIXES)]
    if not found:
        raise ImportFormatError(f"holds no file to import ({', '.join(SUFFIXES)})", path=directory)
    return found, [one for one in inside if not one.name.lower().endswith(SUFFIXES)]
