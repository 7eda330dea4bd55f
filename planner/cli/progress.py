"""Progress on stderr: a spinner on a terminal, nothing elsewhere."""

import logging
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
        handler = _Shown(status.update)
        logger = logging.getLogger("planner.simulator")
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield status.update
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)


class _Shown(logging.Handler):
    """Shows what the simulator's compiler says, since it may take some seconds."""

    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__()
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        self._show(record.getMessage())
