"""``phaseplan export``: writes a bundle whole, and never over what is there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from clusters.fields import InputError
from planner.cli.export import export
from planner.files import write_plan
from tests.planner.export.plans import one_node

app = typer.Typer()
app.command()(export)


@pytest.fixture
def plan_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "best.json"
    write_plan(one_node(), path)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


FILES = {"README.md", "decode-0.sh", "hosts.env", "prefill-0.sh", "router.sh"}


def test_a_bundle_is_written_beside_and_listed(plan_file: Path) -> None:
    done = run(plan_file)
    assert done.exit_code == 0
    folder = plan_file.parent / "best-vllm"
    assert {path.name for path in folder.iterdir()} == FILES
    assert set(done.stdout.split()) == {f"best-vllm/{name}" for name in FILES}


def test_scripts_are_executable_and_nothing_else_is(plan_file: Path) -> None:
    run(plan_file, "-o", "out")
    executable = {
        path.name for path in Path("out").iterdir() if os.access(path, os.X_OK)
    }
    assert executable == {name for name in FILES if name.endswith(".sh")}


def test_a_dry_run_writes_nothing(plan_file: Path) -> None:
    done = run(plan_file, "--dry-run")
    assert len(done.stdout.split()) == len(FILES)
    assert [path.name for path in Path().iterdir()] == ["best.json"]


def test_a_folder_that_is_not_empty_is_left_alone(plan_file: Path) -> None:
    Path("out").mkdir()
    Path("out/hosts.env").write_text("MODEL=mine")
    done = run(plan_file, "-o", "out")
    assert isinstance(done.exception, InputError)
    assert "--overwrite" in str(done.exception)
    assert Path("out/hosts.env").read_text() == "MODEL=mine"
    assert [path.name for path in Path("out").iterdir()] == ["hosts.env"]


def test_overwriting_replaces_the_bundle_and_names_what_is_left(
    plan_file: Path,
) -> None:
    Path("out").mkdir()
    Path("out/hosts.env").write_text("MODEL=mine")
    Path("out/decode-7.sh").write_text("old")
    done = run(plan_file, "-o", "out", "--overwrite")
    assert done.exit_code == 0
    assert "MODEL=mine" not in Path("out/hosts.env").read_text()
    assert Path("out/decode-7.sh").read_text() == "old"
    assert "left in out: decode-7.sh" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.json"], "missing.json"),
        (["best.json", "--to", "vlm"], "nearest is 'vllm'"),
        (["best.json", "-o", "best.json"], "expected a folder"),
    ],
)
def test_input_that_cannot_be_used_writes_nothing(
    plan_file: Path, arguments: list[str], message: str
) -> None:
    done = run(*arguments)
    assert isinstance(done.exception, InputError)
    assert message in str(done.exception)
    assert [path.name for path in Path().iterdir()] == ["best.json"]


def test_caveats_are_told_beside_the_list(plan_file: Path) -> None:
    done = run(plan_file)
    assert "NixlPushConnector" in done.stderr
    assert "NixlPushConnector" not in done.stdout


def test_the_command_is_imported_without_numpy() -> None:
    code = (
        "import sys, planner.cli.export; print({'numpy', 'networkx'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == "set()"
