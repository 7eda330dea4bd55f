"""KERNEL_ERRORS: what kernels and their compilers raise where they do not work.

Kernels are tried on the device they are for. One that is missing, refuses a shape or
does not compile is recorded with its reason and another one takes its place; it must
not end an unattended campaign.
"""

import contextlib
import subprocess
from importlib import import_module


def _kernel_errors() -> tuple[type[Exception], ...]:
    found: list[type[Exception]] = [
        RuntimeError,
        TypeError,
        ValueError,
        AttributeError,
        LookupError,
        AssertionError,
        ImportError,
        OSError,
        subprocess.SubprocessError,
    ]
    # Where there is no compiler of kernels it raises nothing.
    with contextlib.suppress(ImportError, AttributeError):
        found.append(import_module("triton.errors").TritonError)
    return tuple(found)


KERNEL_ERRORS = _kernel_errors()
"""Types to catch around a kernel that may not work here; never a mistake's cover."""


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its type where it has none."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__
