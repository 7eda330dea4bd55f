"""Progress on stderr: a spinner on a terminal, nothing elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from planner.cli.output import stderr_console


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """A function that shows what is being done, until the block ends."""
    if quiet or not sys.stderr.isatty():
        yield lambda _text: None
        return
    with stderr_console().status("starting") as status:
        yield status.update
