"""Progress is for a person at a terminal."""

import logging
import sys

from planner.cli.progress import progress

SIMULATOR = logging.getLogger("planner.simulator")
COMPILER = SIMULATOR.getChild("linking")


def test_what_the_simulator_compiles_is_shown_on_a_terminal_only(monkeypatch, capsys):
    monkeypatch.setenv("TERM", "xterm")
    for is_terminal in (True, False):
        monkeypatch.setattr(sys.stderr, "isatty", lambda is_it=is_terminal: is_it)
        shown = []
        monkeypatch.setattr(
            "rich.status.Status.update", lambda _self, text, to=shown: to.append(text)
        )
        with progress() as show:
            COMPILER.info("compiling the kernel")
            show("searching")
        assert ("compiling the kernel" in shown) == is_terminal
    assert not SIMULATOR.handlers
    assert capsys.readouterr().out == ""
