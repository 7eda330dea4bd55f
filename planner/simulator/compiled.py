"""`@compiled`: numba compilation with an on-disk cache that cannot go stale.

Numba's own cache looks only at the file of the function it loads, so a change in a
callee of another file would go unnoticed. Here the cache directory is named after a
hash of every source file of the kernel, and lives in the user's cache directory, so
that an installed package in a read-only place is cached as well. Directories of older
sources are removed when a new one is made.
"""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core import config as numba_config

from planner.simulator.numba_compilers import linking_compilers

_SOURCES_BESIDE = ("compiled", "handle", "linking", "state")
"""Modules that hold the constants, types and look-ups that are compiled in."""

_DECORATORS = tuple(
    f"\n@{name}\n".encode()
    for name in ("compiled", "optional", "inlined", "entry_point")
)

_PART = {"forceinline": False, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""Options of a function that Python does not call; numba would inherit the first."""

_NUM_KEPT = 3
"""Compiled kernels that stay: of this version and of the ones used before it."""

_LINKING = linking_compilers()
IS_LINKED = _LINKING is not None
"""Whether functions are linked once, and left out of the lean kernel."""


def kernel_sources() -> list[tuple[Path, bytes]]:
    """Files that are compiled, in whole or in part, with their text, in order.

    Those of the simulator, and kernels of other packages of the planner with their
    states (`*_kernel.py`, `*_state.py`) and the one law that models have for them.
    """
    folder = Path(__file__).parent
    law = folder.parents[1] / "models" / "latency" / "stretch.py"
    others = (path for kind in ("kernel", "state") for path in _beside(folder, kind))
    paths = sorted((*folder.glob("*.py"), *others, law))
    sources = [(path, path.read_bytes()) for path in paths]
    return [
        (path, source)
        for path, source in sources
        if any(word in source for word in _DECORATORS)
        or path.stem in _SOURCES_BESIDE
        or path == law
        or path.stem.endswith("_state")
    ]


def _beside(folder: Path, kind: str) -> list[Path]:
    return list(folder.parent.glob(f"*/*_{kind}.py"))


def cache_directory() -> Path:
    """Directory of the compiled simulator for these sources and this numba."""
    digest = hashlib.sha256(f"{numba.__version__} {IS_LINKED}".encode())
    for _, source in kernel_sources():
        digest.update(source)
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "phaseplan" / f"kernels-{digest.hexdigest()[:16]}"


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function that others of the kernel call, without reference counting.

    The kernel allocates nothing, and its arrays outlive it: Python holds them.
    """
    return _compile(function, "PartCompiler", **_PART)


def optional(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same, left out of the lean kernel: for what only some runs need.

    Only what the rest of the kernel calls needs the mark, behind a condition that
    `needs_full_kernel` knows; what it calls itself is then left out with it.
    """
    return _compile(function, "OptionalCompiler", **_PART)


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a small function, or one with a single caller, into its callers."""
    return _compile(function, "PartCompiler", **{**_PART, "forceinline": True})


def entry_point(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function that Python calls, cached for the next process."""
    return _compile(function, "WholeCompiler", forceinline=False, cache=_CAN_CACHE)


def _compile(
    function: Callable[..., Any], pipeline: str, **options: Any
) -> Callable[..., Any]:
    """Compile with the cache directory of these sources.

    Numba reads its cache directory when a function is decorated; the setting is put
    back at once, so other users of numba in the process keep theirs.
    """
    settings: Any = numba_config
    njit: Any = numba.njit
    if IS_LINKED:
        options["pipeline_class"] = getattr(_LINKING, pipeline)
    previous = settings.CACHE_DIR
    try:
        settings.CACHE_DIR = str(_CACHE_DIRECTORY)
        kernel: Callable[..., Any] = njit(nogil=True, _nrt=False, **options)(function)
    finally:
        settings.CACHE_DIR = previous
    return kernel


def _writable(directory: Path) -> bool:
    """Whether the directory can be written; making it removes the oldest ones."""
    try:
        if not directory.is_dir():
            directory.mkdir(parents=True)
            _prune(directory.parent)
    except OSError:
        return False
    return os.access(directory, os.W_OK)


def _prune(parent: Path) -> None:
    """Remove all but the newest kernels (another process may be doing the same)."""
    kernels = sorted(parent.glob("kernels-*"), key=lambda path: path.stat().st_mtime)
    for old in kernels[:-_NUM_KEPT]:
        shutil.rmtree(old, ignore_errors=True)


_CACHE_DIRECTORY = cache_directory()
_CAN_CACHE = _writable(_CACHE_DIRECTORY)
