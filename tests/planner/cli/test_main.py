"""The command as a whole: quick, quiet, and clear about how it ended."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from planner.cli.main import app

HEAVY = ("highspy", "networkx", "numba", "numpy", "pulp", "scipy")


def started(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``phaseplan`` as a process of its own."""
    command = shutil.which("phaseplan", path=str(Path(sys.executable).parent))
    assert command is not None
    return subprocess.run(
        [command, *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    "words", [[], ["catalog"], ["trace"], ["model", "show"], ["plan"], ["simulate"]]
)
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print('loaded', {HEAVY!r} & sys.modules.keys()))\n"
        f"sys.argv = ['phaseplan', *{words!r}, '--help']\n"
        "from planner.cli.main import run\n"
        "run()\n"
    ).replace(repr(HEAVY), repr(set(HEAVY)))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded set()"


def test_version_is_that_of_the_distribution() -> None:
    assert started("--version").stdout == f"phaseplan {version('phaseplan')}\n"


def test_usage_error_exits_with_two() -> None:
    ended = started("catalogue")
    assert ended.returncode == 2
    assert "No such command 'catalogue'" in ended.stderr
    assert ended.stdout == ""


def test_input_error_is_one_line_on_stderr() -> None:
    ended = started("catalog", "show", "h100_sxn")
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr == (
        "error: 'h100_sxn': expected a name in the catalogue (nearest is 'h100_sxm')\n"
    )


def test_debugging_shows_the_traceback() -> None:
    ended = started("catalog", "show", "h100_sxn", PHASEPLAN_DEBUG="1")
    assert ended.returncode == 1
    assert ended.stderr.startswith("Traceback (most recent call last)")


def test_reader_that_leaves_early_is_no_error() -> None:
    command = shutil.which("phaseplan", path=str(Path(sys.executable).parent))
    done = subprocess.run(
        f"'{command}' schema | true; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode in (0, 1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("form", ["table", "json"])
def test_full_device_is_one_line(form: str) -> None:
    command = shutil.which("phaseplan", path=str(Path(sys.executable).parent))
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [str(command), "catalog", "list", "gpus", "--format", form],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "error: stdout: No space left on device\n"


def test_colours_need_a_terminal_that_wants_them() -> None:
    ended = started("catalog", "show", "h100_sxn", NO_COLOR="1")
    assert "\x1b" not in ended.stderr + started("catalog", "list", "gpus").stdout


def test_app_runs_without_the_console_script() -> None:
    assert CliRunner().invoke(app, ["catalog", "list", "gpus"]).exit_code == 0
