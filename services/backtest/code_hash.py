"""What code would run: a hash that changes with anything a strategy's numbers may come from, as far as can be seen.

That is all code of its distribution, and of the loose modules that this imports; the versions of the distributions they
use; the files that lie beside them; the engine, the built-in strategies and the library. What is loaded is what counts,
so sources are hashed once; files beside them are looked at again each time, since they may be read again.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType

MAX_FILES, MAX_BYTES = 10_000, 64 * 1024 * 1024
"""With more beside it than that a strategy has no hash."""
UNKNOWN = "unknown"
"""Stands for a hash that nothing may rest on."""
_OURS = ("services.backtest.engine", "services.backtest.strategies", "klinecast")
_NOT_CALLED = ("api", "cli", "client", "importing", "report")
"""Rooms of klinecast that no strategy can reach a number through."""
_LIBRARIES = ("numpy", "numba", "llvmlite", "ta-lib")
_CODE = {".py", ".pyc", ".pyo", ".nbi", ".nbc", ".so", ".pyd"}
_Stamp = Mapping[str, tuple[int, int, int, int]]
_Sources = Mapping[str, bytes]


class Code:
    """The code of a strategy: what was loaded when this was made, and the files beside it as they are."""

    def __init__(self, kind: type) -> None:
        self._seen: tuple[_Stamp, str | None] | None = None
        self._loaded, self._roots = _hash_loaded(_top(kind.__module__))
        self._loaded, self._seen = self.now(), None  # a module may have read a file beside it when it was imported

    @property
    def loaded(self) -> str:
        """Hash of what is loaded and of the files beside it then; the same for the life of the process."""
        return self._loaded or UNKNOWN

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


@functools.cache
def _hash_loaded(first: str) -> tuple[str | None, Sequence[Path]]:
    """Hash what strategies below a top-level name may run; return its roots as well."""
    own, foreign = _reachable(first)
    roots = [root for name in sorted(own) for root in _roots(name)]
    digest = hashlib.sha256(_hash_ours().encode())
    for top in sorted(own):
        sources = own[top]
        if sources is None:
            return None, roots
        for name in sorted(sources):
            digest.update(f"{name} {len(sources[name])}\n".encode() + sources[name])
    for name in sorted(foreign):
        digest.update(f"{name}=={importlib.metadata.version(name)}\n".encode())
    return digest.hexdigest(), roots


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


def _reachable(first: str) -> tuple[Mapping[str, _Sources | None], set[str]]:
    """Return top-level names with the sources that count, and the distributions whose versions do.

    Whole packages: an import within a function, or of a plain number, leaves no trace in what is loaded.
    """
    own: dict[str, _Sources | None] = {}
    foreign: set[str] = set()
    home = _distributions(first)
    waiting = [first, *(name for name, found in _all_distributions().items() if set(home) & set(found))]
    while waiting:
        top = waiting.pop()
        if top in own or top in sys.stdlib_module_names or top in ("services", "klinecast", "__main__"):
            continue
        if (found := _distributions(top)) and found != home:
            foreign.update(found)
            continue
        own[top] = sources = _sources(top)
        for source in (sources or {}).values():
            waiting += _imported_by(source)
        for module in _modules(top).values():
            waiting += _seen_in(module)
    return own, foreign


def _sources(top: str) -> _Sources | None:
    """Return the sources of a top-level name; None where there are too many or one cannot be had."""
    found, size = {}, 0
    try:
        for at, root in enumerate(_roots(top)):
            for name, path in _files(root, code=True):
                found[f"{top}/{at}/{name}"] = path.read_bytes()
                size += len(found[f"{top}/{at}/{name}"])
                if len(found) > MAX_FILES or size > MAX_BYTES:
                    return None
    except OSError:
        return None
    for name, module in _modules(top).items():
        if not (getattr(module, "__file__", None) or ".py").endswith(".py"):
            source = _source_by_loader(module)
            if source is None:
                return None
            found[name] = source
    return found


def _modules(top: str) -> Mapping[str, ModuleType]:
    return {name: one for name, one in list(sys.modules.items()) if _top(name) == top and isinstance(one, ModuleType)}


def _imported_by(source: bytes) -> Iterator[str]:
    """Yield the top-level names that a source imports anywhere."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # no module, whatever its name
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (_top(one.name) for one in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield _top(node.module)


def _seen_in(module: ModuleType) -> Iterator[str]:
    """Yield the top-level names of what a module holds, however that was imported."""
    for value in list(vars(module).values()):
        name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(name, str) and name in sys.modules:
            yield _top(name)


def _top(name: str) -> str:
    return name.partition(".")[0]


@functools.cache
def _all_distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def _distributions(top: str) -> Sequence[str]:
    return sorted(set(_all_distributions().get(top, [])))


def _source_by_loader(module: ModuleType) -> bytes | None:
    try:
        loader = module.__spec__.loader if module.__spec__ else None
        source = loader.get_source(module.__name__) if loader and hasattr(loader, "get_source") else None
        return None if source is None else source.encode()
    except (OSError, ImportError):
        return None


def _roots(top: str) -> Sequence[Path]:
    """Return the folders of a top-level name, or the file itself where it is a single module."""
    if top in ("services", "klinecast"):
        return ()
    if top in sys.modules:
        folders, file = getattr(sys.modules[top], "__path__", None), getattr(sys.modules[top], "__file__", None)
    elif (spec := importlib.util.find_spec(top)) is not None:
        folders, file = spec.submodule_search_locations, spec.origin if spec.has_location else None
    else:
        return ()
    if folders is not None:
        return [Path(folder) for folder in folders]
    return [Path(file)] if file else ()


def _files(root: Path, *, code: bool = False) -> Iterator[tuple[str, Path]]:
    """Yield names and files, code or all else: those in a folder, or those that share a single module's name."""
    paths = root.rglob("*") if root.is_dir() else root.parent.glob(f"{root.stem}.*")
    base = root if root.is_dir() else root.parent
    for path in paths:
        place = path.relative_to(base)
        hidden = any(part.startswith(".") or part == "__pycache__" for part in place.parts)
        wanted = path.suffix == ".py" if code else path.suffix not in _CODE
        if not hidden and wanted and path.is_file():
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
