"""The trace commands: what they print and write, and where."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from clusters.fields import InputError
from planner.cli.trace import app
from planner.workload.traces import read_trace

TINY = "arrival_ms,input_tokens,output_tokens\n0,10,1\n1000,20,2\n4000,30,3\n"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.csv"
    file.write_text(TINY)
    return file


def test_summarize_prints_a_table(tiny: Path) -> None:
    result = run("summarize", tiny)
    assert result.exit_code == 0
    # 2 gaps in 4 s; inputs 10, 20, 30.
    assert "0.5 requests/s" in result.stdout
    assert "20" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("format", "load"), [("json", json.loads), ("yaml", yaml.safe_load)]
)
def test_summarize_prints_data(tiny: Path, format: str, load: object) -> None:
    data = load(run("summarize", tiny, "--format", format).stdout)
    assert data["num_requests"] == 3
    assert data["gap_cv"] == 0.5
    assert data["input"]["p50"] == 20
    assert data["prefix_hit_frac"] is None


def test_convert_keeps_every_request(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    result = run("convert", tiny, out, "--head", 2)
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "2 requests" in result.stderr
    assert read_trace(out).input_tokens.tolist() == [10, 20]


def test_convert_reads_the_format_it_is_told(tiny: Path, tmp_path: Path) -> None:
    result = run("convert", tiny, tmp_path / "out.csv", "--from", "azure")
    assert isinstance(result.exception, InputError)
    assert "expected a column 'TIMESTAMP'" in str(result.exception)
    assert not (tmp_path / "out.csv").exists()


def test_convert_needs_to_know_what_to_write(tiny: Path, tmp_path: Path) -> None:
    result = run("convert", tiny, tmp_path / "out.txt")
    assert "expected a .csv or .jsonl file, or the option --to" in str(result.exception)
    assert run("convert", tiny, tmp_path / "out.txt", "--to", "csv").exit_code == 0


@pytest.mark.parametrize(
    "arrival", [["poisson"], ["gamma", "--cv", "2"], ["fixed"]], ids=lambda a: a[0]
)
def test_synth_gives_the_same_trace_for_the_same_seed(
    tmp_path: Path, arrival: list[str]
) -> None:
    texts = []
    for name in ("a.csv", "b.csv"):
        result = run(
            *("synth", tmp_path / name, "--lengths", "chat", "--rate", 5, "--num", 50),
            *("--seed", 7, "--arrival", *arrival),
        )
        assert result.exit_code == 0, result.exception
        texts.append((tmp_path / name).read_text())
    assert texts[0] == texts[1]
    assert len(read_trace(tmp_path / "a.csv")) == 50


def test_synth_takes_fixed_lengths(tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    run(
        "synth",
        out,
        "--lengths",
        "512x64",
        "--rate",
        4,
        "--num",
        3,
        "--arrival",
        "fixed",
    )
    # 4 requests/s: one every 250 ms.
    assert out.read_text().splitlines()[1:] == [
        "0.0,512,64",
        "250.0,512,64",
        "500.0,512,64",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lengths", "caht", "--rate", "5"], "lengths = 'caht': expected a preset"),
        (
            ["--lengths", "chat", "--rate", "nan"],
            "rate_rps = nan: expected a number > 0",
        ),
        (
            ["--lengths", "chat", "--rate", "-1"],
            "rate_rps = -1.0: expected a number > 0",
        ),
        (["--lengths", "chat", "--rate", "1", "--num", "0"], "num_requests = 0"),
        (["--lengths", "chat", "--rate", "1", "--cv", "2"], "--cv = 2.0"),
        (["--lengths", "chat", "--rate", "1", "--arrival", "gamma"], "--cv = None"),
        (["--lengths", "10000000000x1", "--rate", "1"], "input_tokens = 10000000000"),
    ],
)
def test_mistakes_of_synth_are_named_and_write_nothing(
    tmp_path: Path, options: list[str], message: str
) -> None:
    result = run("synth", tmp_path / "out.csv", *options)
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    result = run("summarize", tmp_path / "none.csv")
    assert isinstance(result.exception, InputError)
    assert "none.csv: " in str(result.exception)
