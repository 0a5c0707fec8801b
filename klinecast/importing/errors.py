"""The one error of reading files."""

from __future__ import annotations

from pathlib import Path


class ImportFormatError(ValueError):
    """The file is not what the format says; nothing of the batch it is in was read."""

    def __init__(self, problem: str, *, path: Path, line: int | None = None) -> None:
        place = path.name if line is None else f"{path.name}, line {line:,}"
        super().__init__(f"{place}: {problem}")
        self.problem = problem
        self.path = path
        self.line = line
        """Line of the file, from 1."""
