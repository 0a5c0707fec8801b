"""An audit hook for every Python process of a deployment: what is imported is appended to a file."""

from __future__ import annotations

from pathlib import Path

_HOOK = """
import sys

def _note(event, arguments, _open=open):
    if event == "import":
        with _open({log!r}, "a") as log:
            log.write(str(arguments[0]) + "\\n")

sys.addaudithook(_note)
"""


class ImportLog:
    """Put `directory` into PYTHONPATH before the processes start."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._log = directory / "imports.log"
        directory.mkdir(parents=True, exist_ok=True)
        self._log.touch()
        (directory / "sitecustomize.py").write_text(_HOOK.format(log=str(self._log)))

    def names(self) -> list[str]:
        """Return the modules imported so far, by any process."""
        return self._log.read_text().splitlines()
