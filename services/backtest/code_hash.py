"""What code would run: a hash that changes with anything a strategy's numbers may come from, as far as can be seen.

That is the modules its module imports, transitively, where they are its own or loose files; the versions of the
distributions they use; the files that lie beside them; the engine, the built-in strategies and the library. What is
loaded is what counts, so sources are hashed once; files beside them are looked at again each time.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType

MAX_FILES, MAX_BYTES = 10_000, 64 * 1024 * 1024
"""With more beside it than that a strategy has no hash."""
_OURS = ("services.backtest.engine", "services.backtest.strategies", "klinecast")
_NOT_CALLED = ("api", "cli", "client", "importing", "report")
"""Rooms of klinecast that no strategy can reach a number through."""
_LIBRARIES = ("numpy", "numba", "llvmlite", "ta-lib")
_CODE = {".py", ".pyc", ".pyo", ".nbi", ".nbc", ".so", ".pyd"}
_Stamp = Mapping[str, tuple[int, int, int, int]]


class Code:
    """The code of a strategy: what was loaded when this was made, and the files beside it as they are."""

    def __init__(self, kind: type) -> None:
        module = sys.modules[kind.__module__]
        self._loaded = _hash_loaded(module)
        self._roots = _roots(module)
        self._seen: tuple[_Stamp, str | None] | None = None

    @property
    def loaded(self) -> str:
        """Hash of what is loaded; the same for the life of the process."""
        return self._loaded or "unknown"

    def now(self) -> str | None:
        """Return the hash of everything; None where something of it cannot be read, so nothing can be told."""
        if self._loaded is None:
            return None
        if not self._roots:
            return self._loaded
        try:
            stamp = _stamp(self._roots)
            if self._seen is None or self._seen[0] != stamp:
                self._seen = stamp, _hash_files(self._loaded, self._roots, stamp)
        except OSError:
            return None
        return self._seen[1]


def _hash_loaded(module: ModuleType) -> str | None:
    digest = hashlib.sha256(_hash_ours().encode())
    own, foreign = _reachable(module)
    for name in sorted(own):
        source = _source(own[name])
        if source is None:
            return None
        digest.update(f"{name} {len(source)}\n".encode() + source)
    for name in sorted(foreign):
        digest.update(f"{name}=={importlib.metadata.version(name)}\n".encode())
    return digest.hexdigest()


@functools.cache
def _hash_ours() -> str:
    """Hash what every strategy runs on."""
    digest = hashlib.sha256(f"python {sys.version_info[:2]}\n".encode())
    for name in _LIBRARIES:
        digest.update(f"{name}=={importlib.metadata.version(name)}\n".encode())
    for name in _OURS:
        folder = Path(str(importlib.import_module(name).__file__)).parent
        for path in sorted(folder.rglob("*.py")):
            place = path.relative_to(folder)
            if name != "klinecast" or place.parts[0] not in _NOT_CALLED:
                source = path.read_bytes()
                digest.update(f"{name}/{place.as_posix()} {len(source)}\n".encode() + source)
    return digest.hexdigest()


def _reachable(module: ModuleType) -> tuple[Mapping[str, ModuleType], set[str]]:
    """Return the modules whose sources count, and the distributions whose versions do."""
    own: dict[str, ModuleType] = {}
    foreign: set[str] = set()
    home = _distributions(module)
    waiting = [module]
    while waiting:
        one = waiting.pop()
        top = one.__name__.partition(".")[0]
        if one.__name__ in own or top in sys.stdlib_module_names or top in ("services", "klinecast", "__main__"):
            continue
        if (found := _distributions(one)) and found != home:
            foreign.update(found)
            continue
        own[one.__name__] = one
        waiting += _named_in(one)
        waiting += [sys.modules[one.__package__]] if one.__package__ in sys.modules else []
    return own, foreign


def _named_in(module: ModuleType) -> Iterator[ModuleType]:
    for value in list(vars(module).values()):
        if isinstance(value, ModuleType):
            yield value
        elif isinstance(name := getattr(value, "__module__", None), str) and name in sys.modules:
            yield sys.modules[name]


@functools.cache
def _all_distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def _distributions(module: ModuleType) -> Sequence[str]:
    return sorted(set(_all_distributions().get(module.__name__.partition(".")[0], [])))


def _source(module: ModuleType) -> bytes | None:
    """Return the source of a module; nothing for a folder without one, None where there is one that cannot be had."""
    try:
        if module.__file__ is None:
            return b""
        if module.__file__.endswith(".py"):
            return Path(module.__file__).read_bytes()
        loader = module.__spec__.loader if module.__spec__ else None
        source = loader.get_source(module.__name__) if loader and hasattr(loader, "get_source") else None
        return None if source is None else source.encode()
    except (OSError, ImportError):
        return None


def _roots(module: ModuleType) -> Sequence[Path]:
    """Return the folders whose files may be a strategy's, or the file itself where it is a single module."""
    name = module.__name__.partition(".")[0]
    if name in ("services", "klinecast"):
        return ()
    top = sys.modules[name]
    if hasattr(top, "__path__"):
        return [Path(folder) for folder in top.__path__]
    return [Path(top.__file__)] if top.__file__ else ()


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield names and files that are no code: those in a folder, or those that share a single module's name."""
    paths = root.rglob("*") if root.is_dir() else root.parent.glob(f"{root.stem}.*")
    base = root if root.is_dir() else root.parent
    for path in paths:
        place = path.relative_to(base)
        hidden = any(part.startswith(".") or part == "__pycache__" for part in place.parts)
        if not hidden and path.suffix not in _CODE and path.is_file():
            yield place.as_posix(), path


def _stamp(roots: Sequence[Path]) -> _Stamp:
    stamp = {}
    for at, root in enumerate(roots):
        for name, path in _files(root):
            found = path.stat()
            stamp[f"{at}/{name}"] = (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)
    return stamp


def _hash_files(loaded: str, roots: Sequence[Path], stamp: _Stamp) -> str | None:
    if len(stamp) > MAX_FILES or sum(size for _, _, size, _ in stamp.values()) > MAX_BYTES:
        return None
    digest = hashlib.sha256(loaded.encode())
    for at, root in enumerate(roots):
        for name, path in sorted(_files(root)):
            content = path.read_bytes()
            digest.update(f"{at}/{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()
