"""The wheel is whole: it plans and replays far from the repository.

Dependencies come from pip's configured index; the wheel itself is built offline with
the setuptools beside this Python.
"""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("clusters", "models", "planner", "profiler")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that the working tree stays as it is."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, source / package, ignore=ignored)
    target = tmp_path_factory.mktemp("wheel")
    run(
        sys.executable, "-m", "build", "--wheel", "--no-isolation",
        "--outdir", str(target), str(source),
        cwd=target,
    )  # fmt: skip
    (built,) = target.glob("*.whl")
    return built


def test_wheel_holds_every_module_and_data_file(wheel: Path) -> None:
    tracked = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = set(zipfile.ZipFile(wheel).namelist())
    assert tracked - packed == set()
    assert {name.split("/")[0] for name in packed if ".dist-info/" not in name} == set(
        PACKAGES
    )


def test_wheel_plans_and_replays_the_quickstart_elsewhere(
    wheel: Path, tmp_path: Path
) -> None:
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    run(
        str(environment / "bin" / "python"), "-m", "pip", "install", "-qq",
        "--disable-pip-version-check",
        "--constraint", str(ROOT / "constraints.txt"), str(wheel),
        cwd=tmp_path,
    )  # fmt: skip
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(ROOT / "examples" / "quickstart.yaml", elsewhere)
    phaseplan = str(environment / "bin" / "phaseplan")

    run(phaseplan, "plan", "quickstart.yaml", "-o", "plan.json", cwd=elsewhere)
    assert "status" in json.loads((elsewhere / "plan.json").read_text("utf-8"))
    run(phaseplan, "simulate", "plan.json", cwd=elsewhere)


def run(*command: str, cwd: Path) -> None:
    """Run a command that must succeed, without this process's way to our packages."""
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        command,
        cwd=cwd,
        env=clean,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
