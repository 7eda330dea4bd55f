"""Output goes to one place, in one form, whole or not at all."""

import json
from pathlib import Path

import pytest
import yaml

from clusters.fields import InputError
from planner.cli.output import OutputFormat, check_output, emit, say
from planner.cli.tables import facts_table
from planner.errors import PlannerError

DATA = {"name": "[red]x[/red]", "nodes": 2}


def shown() -> object:
    return facts_table([("name", "[red]x[/red]")])


def unwanted() -> object:
    raise AssertionError("the table is made only where it is shown")


def test_json_on_stdout_is_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    emit(DATA, fmt=OutputFormat.JSON, table=unwanted)
    assert json.loads(capsys.readouterr().out) == DATA


def test_yaml_on_stdout_is_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    emit(DATA, fmt=OutputFormat.YAML, table=unwanted)
    assert yaml.safe_load(capsys.readouterr().out) == DATA


def test_table_shows_text_of_users_as_it_stands(
    capsys: pytest.CaptureFixture[str],
) -> None:
    emit(DATA, fmt=None, table=shown)
    assert "[red]x[/red]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "start"), [("a.json", "{"), ("a.yml", "name: "), ("a.txt", "name  ")]
)
def test_suffix_of_the_file_decides_the_form(
    tmp_path: Path, name: str, start: str, capsys: pytest.CaptureFixture[str]
) -> None:
    emit(DATA, fmt=None, table=shown, output=tmp_path / name)
    assert (tmp_path / name).read_text("utf-8").startswith(start)
    assert capsys.readouterr().out == ""


def test_form_asked_for_wins_over_the_suffix(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    emit(DATA, fmt=OutputFormat.JSON, table=unwanted, output=path)
    assert json.loads(path.read_text("utf-8")) == DATA


def test_file_that_cannot_be_written_is_a_failure_that_names_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "gone" / "plan.json"
    with pytest.raises(PlannerError, match=r"plan\.json.*a file that can be written"):
        emit(DATA, fmt=None, table=unwanted, output=path)


def test_output_path_is_checked_before_the_work(tmp_path: Path) -> None:
    assert check_output(tmp_path / "new.json") == tmp_path / "new.json"
    with pytest.raises(InputError, match="a file in an existing folder"):
        check_output(tmp_path / "gone" / "plan.json")
    with pytest.raises(InputError, match="a file, not a folder"):
        check_output(tmp_path)


def test_quiet_messages_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    say("reading", quiet=True)
    say("writing")
    assert capsys.readouterr().err == "writing\n"
