"""How kernel functions are compiled: linked once, or each by numba alone.

`linking.py` stands on inner parts of numba, which any version may change. So a version
that it was not tried with compiles some tiny functions first. Where that fails, or a
part is not there, the kernel is compiled as numba compiles every function: that takes
longer, and results are the same (docs/decisions/0038).
"""

import logging
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numba
from numba.core import errors, types

logger = logging.getLogger(__name__)

TRIED = frozenset({(0, 60), (0, 61), (0, 68)})
"""Versions of numba that `linking.py` was run with."""

_LACKS = (
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    errors.NumbaError,
)
"""What it looks like when inner parts of numba are not what they were."""


def linking_compilers() -> Any:
    """The module with the compilers that link; None where this numba cannot."""
    numba_module: Any = numba
    version = numba_module.version_info.short
    try:
        linking = import_module("planner.simulator.linking")
        if version not in TRIED:
            try_out(linking)
    except _LACKS as error:
        logger.info(
            "numba %s compiles the simulator function by function, which takes longer "
            "(%s: %s)",
            numba.__version__,
            type(error).__name__,
            error,
        )
        return None
    return linking


def try_out(linking: Any) -> None:
    """Compile tiny functions with the compilers of `linking`, and run them.

    Raises
    ------
    ValueError
        For a wrong result; whatever else these compilers raise.
    """
    half = _made(linking.PartCompiler, lambda n: n // 2)
    one_more = _made(linking.OptionalCompiler, _one_more)
    whole = _made(linking.WholeCompiler, lambda w, n: half(n) + one_more(w, n))
    lean: Any = types.Opaque("phaseplan_lean")
    lean.is_lean = True
    whole.compile((lean, types.int64))
    result = whole(0, 8)
    if result != 13:
        raise ValueError(f"4 + 9 is {result}")


def _one_more(w: Any, n: int) -> int:
    return n + 1


def _made(pipeline: type[Any], function: Callable[..., Any]) -> Any:
    njit: Any = numba.njit
    return njit(nogil=True, _nrt=False, pipeline_class=pipeline)(function)
