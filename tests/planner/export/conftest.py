"""Options and fixtures of the exporters' tests."""

import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

Run = Callable[[Mapping[str, str], str], tuple[list[str], dict[str, str]]]

STUB = """#!/usr/bin/env bash
printf '%s\\0' "$@" > "${STUB_OUTPUT}.argv"
env -0 > "${STUB_OUTPUT}.env"
"""
"""A command that writes down its arguments and environment, each ended by NUL."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="Write the golden files anew."
    )


@pytest.fixture
def updates_golden(request: pytest.FixtureRequest) -> bool:
    # The option exists only where pytest is started on this folder.
    return bool(request.config.getoption("--update-golden", default=False))


@pytest.fixture(scope="session")
def run_script(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run a script of a bundle with stubs for vllm; give their argv and environment."""
    root = tmp_path_factory.mktemp("bundle")
    commands = root / "bin"
    commands.mkdir()
    for name in ("vllm", "vllm-router"):
        (commands / name).write_text(STUB)
        (commands / name).chmod(0o755)
    path = f"{commands}{os.pathsep}{os.environ['PATH']}"

    def run(files: Mapping[str, str], script: str) -> tuple[list[str], dict[str, str]]:
        for name in ("hosts.env", script):
            (root / name).write_text(files[name], encoding="utf-8", newline="")
        done = subprocess.run(
            ["bash", str(root / script)],
            env={"PATH": path, "STUB_OUTPUT": str(root / "seen"), "LC_ALL": "C.UTF-8"},
            cwd=root,
            capture_output=True,
            check=False,
            timeout=20,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        expected = {"bin", "hosts.env", script, "seen.argv", "seen.env"}
        written = {each.name for each in root.iterdir()}
        (root / script).unlink()
        assert written == expected, "a script writes no file"
        environment = dict(
            entry.split("=", 1) for entry in _entries(root / "seen.env") if "=" in entry
        )
        return _entries(root / "seen.argv"), environment

    return run


def _entries(path: Path) -> list[str]:
    text = path.read_bytes().decode("utf-8")
    return text.split("\0")[:-1]
