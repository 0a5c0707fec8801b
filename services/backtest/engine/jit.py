"""numba behind two typed decorators; the only place that says how kernels are compiled.

Kernels allocate nothing: they write into arrays they are given. They are compiled without numba's reference counts,
which would cost a kernel two atomic operations for each array it hands to another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core.typing.templates import Signature

F = TypeVar("F", bound=Callable[..., object])

_OPTIONS: Any = {"nogil": True, "fastmath": False, "error_model": "numpy", "_nrt": False}


def leaf(function: F) -> F:
    """Compile a function that only other kernels call; it becomes part of theirs."""
    return cast(F, numba.njit(**_OPTIONS)(function))


def compiled(signature: str | Signature) -> Callable[[F], F]:
    """Compile at import for one signature, or load it from numba's cache."""

    def decorate(function: F) -> F:
        kernel: Any = numba.njit(**_OPTIONS)(function)
        kernel.enable_caching()
        # numba looks at the time stamp of the function's own file only: an edited leaf in another file would leave a
        # stale kernel behind. The stamp of a kernel is therefore that of all files beside it.
        index = kernel._cache._cache_file
        index._source_stamp = (index._source_stamp, _digest(Path(function.__code__.co_filename).parent))
        kernel.compile(signature)
        kernel.disable_compile()
        return cast(F, kernel)

    return decorate


def _digest(folder: Path) -> str:
    """Hash the sources of the engine and of the folder a kernel stands in."""
    folders = sorted({folder, Path(__file__).parent})
    content = b"".join(file.read_bytes() for one in folders for file in sorted(one.glob("*.py")))
    return hashlib.sha256(content).hexdigest()
