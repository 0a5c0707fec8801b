"""A file that is read again when it changes; a version that cannot be used leaves the one before in force."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from services.runtime.logs import get_logger

CHECK_S = 1.0
_LOG = get_logger(__name__)
_T = TypeVar("_T")


class WatchedFile(Generic[_T]):
    """What a file says, at most a second old; Kubernetes replaces mounted Secrets by renaming a directory link."""

    def __init__(self, path: str, parse: Callable[[bytes], _T], on_refused: Callable[[], None]) -> None:
        """Read it for the first time; OSError and what `parse` raises (ValueError) pass."""
        self._path = Path(path)
        self._parse = parse
        self._on_refused = on_refused
        self._stamp = self._look()
        self._checked = time.monotonic()
        self._value = parse(self._path.read_bytes())
        self.version = 0
        """How often it has changed."""

    @property
    def value(self) -> _T:
        """What the newest version that can be used says."""
        now = time.monotonic()
        if now - self._checked >= CHECK_S:
            self._checked = now
            self._refresh()
        return self._value

    def _refresh(self) -> None:
        try:
            stamp = self._look()
            if stamp == self._stamp:
                return
            self._value, self._stamp = self._parse(self._path.read_bytes()), stamp
        except Exception as error:  # whatever a file can hold, the one before stays in force
            self._on_refused()
            _LOG.warning("file_not_taken", path=str(self._path), problem=_first_line(error))
            return
        self.version += 1
        _LOG.info("file_taken", path=str(self._path))

    def _look(self) -> tuple[int, int, int]:
        found = self._path.stat()
        return found.st_mtime_ns, found.st_ino, found.st_size


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
