"""``phaseplan plan``: what it prints, writes and exits with."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planner.cli.problem_file import METHODS, complete_method
from planner.search.registry import method_names
from tests.planner.cli.conftest import TINY_PROBLEM

Run = Callable[..., Any]

TRACE = "arrival_ms,input_tokens,output_tokens\n" + "".join(
    f"{250 * i},{300 + 40 * (i % 5)},{20 + i % 3}\n" for i in range(60)
)


def phaseplan_command() -> str:
    command = shutil.which("phaseplan", path=str(Path(sys.executable).parent))
    assert command is not None
    return command


def test_methods_of_the_help_are_those_that_exist() -> None:
    assert sorted(METHODS) == sorted(method_names())


def test_methods_are_completed() -> None:
    found = ["distserve", "distserve-high", "distserve-low"]
    assert complete_method("dist") == found


def test_plan_is_a_table_that_fits_a_hundred_columns(
    phaseplan: Run, problem_file: Path
) -> None:
    ended = phaseplan("plan", problem_file)
    assert (ended.code, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    assert max(len(line) for line in lines) <= 100
    first_words = {line.split(" ")[0] for line in lines}
    assert {"Status", "Verdict", "Plan", "Goodput", "SLO", "Replicas"} <= first_words


def test_file_is_the_json_that_is_printed(
    phaseplan: Run, problem_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "plan.json"
    ended = phaseplan("plan", problem_file, "-o", output, "--format", "json")
    assert ended.stdout == output.read_text()
    assert json.loads(ended.stdout)["api_version"] == "phaseplan/plan-v1"


def test_yaml_file_holds_the_same_plan(
    phaseplan: Run, problem_file: Path, tmp_path: Path
) -> None:
    for name in ("plan.json", "plan.yaml"):
        phaseplan("plan", problem_file, "-o", tmp_path / name)
    assert (tmp_path / "plan.yaml").read_text().startswith("api_version: phaseplan")
    words = ("--format", "json")
    in_json = phaseplan("simulate", tmp_path / "plan.json", *words)
    assert (
        in_json.stdout == phaseplan("simulate", tmp_path / "plan.yaml", *words).stdout
    )


def test_settings_change_the_problem_in_their_order(
    phaseplan: Run, problem_file: Path
) -> None:
    words = [
        *("--set", "services[0].workload.rate_rps=1e1"),
        *("--set", "objective.goal=max_goodput"),
        *("--set", "engine.kv_setup_ms=5"),
        *("--set", "objective.goal=min_gpus"),
    ]
    data = json.loads(
        phaseplan("plan", problem_file, *words, "--format", "json").stdout
    )
    problem = data["problem"]
    # `1e1` is the number 10, and a mapping that the file lacks is made.
    assert problem["services"][0]["workload"]["rate_rps"] == 10.0
    assert problem["objective"]["goal"] == "min_gpus"
    assert problem["engine"]["kv_setup_ms"] == 5.0
    assert problem_file.read_text() == TINY_PROBLEM


def test_best_effort_is_written_with_exit_code_three(
    phaseplan: Run, problem_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "plan.json"
    words = ("-o", output, "--set", "services[0].slo.ttft_ms=1")
    ended = phaseplan("plan", problem_file, *words)
    assert ended.code == 3
    assert json.loads(output.read_text())["status"] == "NOT_FOUND"
    assert ended.stdout.startswith(
        "Status     NOT_FOUND: no deployment meets TTFT <= 1"
    )
    (line,) = ended.stderr.splitlines()
    assert line.endswith("this is the best effort")
    assert phaseplan("plan", problem_file, *words, "--quiet").stderr == ""


def test_trace_is_found_from_wherever_the_plan_is_kept(
    phaseplan: Run, problem_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trace.csv").write_text(TRACE)
    tiny = TINY_PROBLEM.replace("{lengths: 512x64, rate_rps: 4}", "trace.csv")
    problem_file.write_text(tiny)
    output = tmp_path / "kept" / "plan.json"
    output.parent.mkdir()
    written = set()
    # From two working folders, and by a relative and an absolute path.
    for folder, problem in ((tmp_path, "tiny.yaml"), (output.parent, problem_file)):
        monkeypatch.chdir(folder)
        assert phaseplan("plan", problem, "-o", output).code == 0
        written.add(output.read_text())
    (text,) = written
    (service,) = json.loads(text)["problem"]["services"]
    assert service["workload"]["trace"] == "../trace.csv"
    hashed = [name for name, _ in json.loads(text)["inputs_sha256"]]
    assert hashed == ["tiny.yaml", "trace.csv"]
    monkeypatch.chdir(tmp_path)
    assert phaseplan("simulate", output).stderr == ""


def test_equal_inputs_give_equal_bytes(problem_file: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    files = []
    for number, folder in enumerate((tmp_path, tmp_path / "elsewhere")):
        files.append(tmp_path / f"{number}.json")
        subprocess.run(
            [phaseplan_command(), "plan", problem_file, "-o", files[-1]],
            # Another order of sets and dicts must not show either.
            env={**os.environ, "PYTHONHASHSEED": str(number + 1)},
            cwd=folder,
            check=True,
            capture_output=True,
        )
    assert files[0].read_bytes() == files[1].read_bytes()


def test_plan_is_as_its_schema_says(phaseplan: Run, planned: str) -> None:
    schema = json.loads(phaseplan("schema", "plan", "--format", "jsonschema").stdout)
    assert list(violations(json.loads(planned), schema, schema)) == []
    broken = json.loads(planned)
    broken["goodput"]["rate_rps"] = -1
    broken["extra"] = 1
    del broken["seed"]
    assert len(list(violations(broken, schema, schema))) == 3


def test_interrupt_ends_with_130_and_no_file(tmp_path: Path) -> None:
    # A search that takes minutes: 1,000 GPUs.
    problem = tmp_path / "long.yaml"
    problem.write_text(
        TINY_PROBLEM.replace("a100_1x4", "thousand_gpus").replace("tp: [1]", "tp: []")
    )
    with subprocess.Popen(
        [phaseplan_command(), "plan", str(problem), "-o", str(tmp_path / "plan.json")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A runner in the background of a shell ignores interrupts, and so would this.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as running:
        time.sleep(3.0)
        assert running.poll() is None
        running.send_signal(signal.SIGINT)
        stdout, stderr = running.communicate(timeout=60)
    assert running.returncode == 130
    assert (stdout, stderr) == ("", "interrupted\n")
    assert {path.name for path in tmp_path.iterdir()} == {"long.yaml"}


def violations(value: Any, schema: Any, root: Any, where: str = "$") -> Any:
    """What a value breaks of the part of JSON Schema that `phaseplan schema` uses."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        yield from violations(value, root["$defs"][name], root, where)
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where}: {value!r} is none of {schema['enum']}"
    if "type" in schema and not is_type(value, schema["type"]):
        yield f"{where}: {value!r} is no {schema['type']}"
        return
    if "anyOf" in schema and all(
        list(violations(value, each, root, where)) for each in schema["anyOf"]
    ):
        yield f"{where}: {value!r:.60} is none of several forms"
    for each in schema.get("allOf", ()):
        yield from violations(value, each, root, where)
    if isinstance(value, dict):
        known = schema.get("properties", {})
        rest = schema.get("additionalProperties", True)
        yield from (
            f"{where}: no {key}"
            for key in schema.get("required", ())
            if key not in value
        )
        for key, item in value.items():
            if key in known:
                yield from violations(item, known[key], root, f"{where}.{key}")
            elif rest is False:
                yield f"{where}: unknown {key}"
            elif rest is not True:
                yield from violations(item, rest, root, f"{where}.{key}")
    if isinstance(value, list):
        for index, item in enumerate(value):
            forms = schema.get("prefixItems")
            part = forms[index] if forms else schema.get("items", {})
            yield from violations(item, part, root, f"{where}[{index}]")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and (
        value < schema.get("minimum", value)
        or value > schema.get("maximum", value)
        or value <= schema.get("exclusiveMinimum", value - 1)
        or value >= schema.get("exclusiveMaximum", value + 1)
    ):
        yield f"{where}: {value!r} is out of range"


def is_type(value: object, name: str) -> bool:
    """Whether a JSON value has a type of JSON Schema."""
    if isinstance(value, bool):
        return name == "boolean"
    types: dict[str, Any] = {
        "object": dict,
        "array": list,
        "string": str,
        "number": int | float,
        "integer": int,
        "boolean": bool,
        "null": type(None),
    }
    return isinstance(value, types[name])
