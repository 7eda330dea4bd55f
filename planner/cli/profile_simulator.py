"""The simulator, compiled in a process of its own while a device is measured.

Compiling takes most of a minute on a busy machine: nobody who has borrowed a GPU waits
for that. What is compiled is on the disk afterwards, and loaded from there.
"""

import contextlib
import subprocess
import sys

_COMMAND = ("-m", "planner.simulator.warm")


class SimulatorCompiler:
    """Compiles from the moment it is made."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *_COMMAND],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._errors = ""

    @property
    def is_running(self) -> bool:
        """Whether it is still at it."""
        return self._process.poll() is None

    def why_not_ready(self, wait_s: float) -> str | None:
        """None when it is compiled, or why it is not after at most `wait_s`."""
        try:
            _, errors = self._process.communicate(timeout=max(0.0, wait_s))
        except subprocess.TimeoutExpired:
            return "it is still being compiled"
        self._errors = errors or self._errors
        if self._process.returncode == 0:
            return None
        lines = self._errors.strip().splitlines()
        return lines[-1] if lines else f"exit code {self._process.returncode}"

    def end(self) -> None:
        """Leave no process behind."""
        if self.is_running:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.communicate(timeout=10)
