"""`@compiled`: numba compilation with an on-disk cache that cannot go stale.

Numba's own cache looks only at the file of the function it loads, so a change in a
callee of another file would go unnoticed. Here the cache directory is named after a
hash of every source file of the simulator, and lives in the user's cache directory, so
that an installed package in a read-only place is cached as well.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core import config as numba_config

_SOURCES = sorted(Path(__file__).parent.glob("*.py"))


def cache_directory() -> Path:
    """Directory of the compiled simulator for these sources and this numba."""
    digest = hashlib.sha256(numba.__version__.encode())
    for source in _SOURCES:
        digest.update(source.read_bytes())
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "phaseplan" / f"kernels-{digest.hexdigest()[:16]}"


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function of the kernel with numba, without reference counting.

    The kernel allocates nothing, and counting references to the arrays of the `World`
    at every call costs more than the simulation itself (15x, measured).
    """
    return _compile(function, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a small function, or one with a single caller, into its callers.

    Halves the compile time and doubles the speed of the kernel (measured).
    """
    return _compile(
        function, inline="always", no_cpython_wrapper=True, no_cfunc_wrapper=True
    )


def entry_point(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function that Python calls, cached for the next process."""
    return _compile(function, cache=_CAN_CACHE)


def _compile(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Compile with the cache directory of these sources.

    Numba reads its cache directory when a function is decorated; the setting is put
    back at once, so other users of numba in the process keep theirs.
    """
    settings: Any = numba_config
    njit: Any = numba.njit
    previous = settings.CACHE_DIR
    try:
        settings.CACHE_DIR = str(_CACHE_DIRECTORY)
        kernel: Callable[..., Any] = njit(nogil=True, _nrt=False, **options)(function)
    finally:
        settings.CACHE_DIR = previous
    return kernel


def _writable(directory: Path) -> bool:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(directory, os.W_OK)


_CACHE_DIRECTORY = cache_directory()
_CAN_CACHE = _writable(_CACHE_DIRECTORY)
