"""Bad input is one line on stderr that says where and what, and leaves files alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.planner.cli.conftest import TINY_PROBLEM, one_error

Run = Callable[..., Any]

TRACE = "arrival_ms,input_tokens,output_tokens\n"
DISCONNECTED = """{nodes: [{type: p5.48xlarge, name: a}, {type: p5.48xlarge, name: b},
  {type: p5.48xlarge, name: c}], fabric: {links: [
  {between: [a, b], gb_per_s: 25}]}}"""
CYCLIC = DISCONNECTED.replace(
    "gb_per_s: 25}",
    "gb_per_s: 25}, {between: [b, c], gb_per_s: 25}, {between: [c, a], gb_per_s: 25}",
)

# What is replaced in the tiny problem, by what, and what the error says.
PROBLEMS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "unknown key": (
        "rate_rps: 4",
        "rate_rsp: 4",
        ("services[0].workload.rate_rsp = 4: expected a known key", "'rate_rps'"),
    ),
    "unknown key at the top": (
        "cluster:",
        "clusters:",
        ("clusters = 'a100_1x4'", "nearest is 'cluster'"),
    ),
    "rate is not a number": (
        "rate_rps: 4",
        "rate_rps: .nan",
        ("services[0].workload.rate_rps = nan: expected a finite number",),
    ),
    "rate is infinite": (
        "rate_rps: 4",
        "rate_rps: .inf",
        ("services[0].workload.rate_rps = inf: expected a finite number",),
    ),
    "rate is negative": (
        "rate_rps: 4",
        "rate_rps: -4",
        ("services[0].workload.rate_rps = -4.0: expected a number > 0",),
    ),
    "rate is zero": (
        "rate_rps: 4",
        "rate_rps: 0",
        ("services[0].workload.rate_rps = 0.0: expected a number > 0",),
    ),
    "rate is text": (
        "rate_rps: 4",
        "rate_rps: fast",
        ("services[0].workload.rate_rps = 'fast': expected a number",),
    ),
    "share in percent": (
        "tpot_ms: 100",
        "tpot_ms: 100, attainment_frac: 90",
        ("services[0].slo.attainment_frac = 90.0", "a number > 0 and <= 1"),
    ),
    "limit is negative": (
        "ttft_ms: 200",
        "ttft_ms: -200",
        ("services[0].slo.ttft_ms = -200.0: expected a number > 0",),
    ),
    "unknown model": ("opt-13b", "opt-14b", ("'opt-14b'", "nearest is 'opt-13b'")),
    "unknown cluster": ("a100_1x4", "a100_1x5", ("cluster = 'a100_1x5'", "a100_1x4")),
    "unknown GPU type": (
        "tp: [1]",
        "gpu_types: [a100]",
        ("search.gpu_types[0] = 'a100'", "a100_sxm"),
    ),
    "unknown goal": (
        "max_goodput_per_gpu",
        "max_goodputs",
        ("objective.goal = 'max_goodputs'", "nearest is 'max_goodput'"),
    ),
    "degree is zero": ("tp: [1]", "tp: [0]", ("search.tp[0] = 0", "a number >= 1")),
    "another version": (
        "phaseplan/v1",
        "phaseplan/v2",
        ("api_version = 'phaseplan/v2': expected 'phaseplan/v1'",),
    ),
    "10 GB of prompt": (
        # About 4 bytes a token: 10 GB are 2.5e9 tokens.
        "512x64",
        "2500000000x64",
        ("input_tokens = 2500000000: expected", "1 and <= 1e+08"),
    ),
    "closed loop": (
        "rate_rps: 4",
        "concurrency: 8",
        ("services[0].workload.concurrency = 8: expected a rate_rps instead",),
    ),
    "two services": (
        "services:",
        "services:\n  - {llm: opt-13b, workload: {lengths: 512x64, rate_rps: 4}}",
        ("objective.goal = 'max_goodput_per_gpu': expected one of served_load",),
    ),
    "key twice": (
        "cluster: a100_1x4",
        "cluster: a100_1x4\ncluster: a100_1x4",
        ("tiny.yaml:3:1: ", "duplicate key 'cluster'"),
    ),
    "malformed YAML": (
        "tp: [1]}",
        "tp: [1",
        ("tiny.yaml:9", "expected YAML ("),
    ),
    "disconnected topology": (
        "a100_1x4",
        DISCONNECTED,
        ("cluster.fabric.links = 1: expected links that join all", "['a', 'c']"),
    ),
    "cyclic topology": (
        "a100_1x4",
        CYCLIC,
        ("fabric.links[2].between = ['c', 'a']: expected links without a cycle",),
    ),
    "missing trace": (
        "{lengths: 512x64, rate_rps: 4}",
        "nowhere.csv",
        ("nowhere.csv: ", "expected an existing file"),
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_problem_that_cannot_be_planned_is_one_line(
    name: str, phaseplan: Run, problem_file: Path, tmp_path: Path
) -> None:
    old, new, fragments = PROBLEMS[name]
    assert old in TINY_PROBLEM
    problem_file.write_text(TINY_PROBLEM.replace(old, new))
    output = tmp_path / "plan.json"
    output.write_text("the plan before")
    file = "" if "trace" in name else "tiny.yaml"
    one_error(phaseplan("plan", problem_file, "-o", output), file, *fragments)
    assert output.read_text() == "the plan before"
    assert {each.name for each in tmp_path.iterdir()} == {"tiny.yaml", "plan.json"}


# What the file holds, and what the error says.
CONTENTS: dict[str, tuple[str, bytes, tuple[str, ...]]] = {
    "empty": ("p.yaml", b"", ("p.yaml: None: expected a mapping",)),
    "a list": ("p.yaml", b"- a\n- b\n", ("p.yaml: ['a', 'b']", "a mapping")),
    "binary": ("p.yaml", bytes(range(256)), ("p.yaml: ", "UTF-8 text (byte 128")),
    "control characters": ("p.yaml", b"\x00\x01", ("p.yaml: ", "expected YAML (")),
    "nested YAML": ("p.yaml", b"[" * 100_000, ("p.yaml: ", "at most 100 deep")),
    "nested JSON": ("p.json", b"[" * 100_000, ("p.json: ", "nested so deeply")),
    "malformed JSON": ("p.json", b'{"a": 1,\n "b": }', ("p.json:2:7: ", "JSON (")),
    "code": (
        "p.yaml",
        b"!!python/object/apply:os.system ['true']\n",
        ("p.yaml:1:1: ", "expected YAML ("),
    ),
}


@pytest.mark.parametrize("command", ["plan", "simulate", "explain", "compare"])
@pytest.mark.parametrize("name", CONTENTS)
def test_file_that_cannot_be_read_is_one_line(
    command: str, name: str, phaseplan: Run, tmp_path: Path
) -> None:
    file, content, fragments = CONTENTS[name]
    (tmp_path / file).write_bytes(content)
    one_error(phaseplan(command, tmp_path / file), *fragments)


@pytest.mark.parametrize("command", ["plan", "simulate", "explain", "compare"])
def test_missing_file_and_folder_are_one_line(
    command: str, phaseplan: Run, tmp_path: Path
) -> None:
    missing = tmp_path / "nowhere.json"
    one_error(phaseplan(command, missing), "nowhere.json", "expected an existing file")
    one_error(phaseplan(command, tmp_path), str(tmp_path), "a file, not a folder")


# Rows of a trace, and what the error says.
TRACES: dict[str, tuple[str, tuple[str, ...]]] = {
    "empty file": ("", ("t.csv: trace = 'no rows': expected at least one request",)),
    "no rows": (TRACE, ("t.csv: trace = 'no rows'",)),
    "word for a number": (
        f"{TRACE}0,100,10\n500,abc,10\n",
        ("t.csv:3: input_tokens = 'abc': expected a finite number",),
    ),
    "NaN": (
        f"{TRACE}0,100,10\nnan,100,10\n",
        ("t.csv:3: arrival_ms = 'nan': expected a finite number",),
    ),
    "missing column": (f"{TRACE}0,100\n", ("t.csv:2: '0,100': expected 3 columns",)),
    "negative length": (
        f"{TRACE}0,-5,10\n",
        ("t.csv:2: input_tokens = -5: expected a whole number from 1 to 100000000",),
    ),
    "10 GB of prompt": (
        f"{TRACE}0,100,10\n500,2500000000,10\n",
        ("t.csv:3: input_tokens = 2500000000", "from 1 to 100000000"),
    ),
    "binary": ("\x00\x01\x02", ("t.csv:1: ", "a trace in a known format")),
}


@pytest.mark.parametrize("name", TRACES)
def test_bad_trace_is_one_line_with_its_row(
    name: str, phaseplan: Run, plan_file: Path, problem_file: Path, tmp_path: Path
) -> None:
    text, fragments = TRACES[name]
    trace = tmp_path / "t.csv"
    trace.write_text(text)
    one_error(phaseplan("simulate", plan_file, trace), *fragments)
    tiny = TINY_PROBLEM.replace("{lengths: 512x64, rate_rps: 4}", "t.csv")
    problem_file.write_text(tiny)
    one_error(phaseplan("plan", problem_file), *fragments)


def test_trace_that_arrives_at_once_has_no_rate_to_scale(
    phaseplan: Run, problem_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text(f"{TRACE}0,100,10\n0,100,10\n")
    tiny = TINY_PROBLEM.replace("{lengths: 512x64, rate_rps: 4}", "t.csv")
    problem_file.write_text(tiny)
    ended = phaseplan("plan", problem_file)
    one_error(ended, "tiny.yaml: ", "rate_rps", "requests arrive at once")


@pytest.mark.filterwarnings("always::planner.workload.traces.rows.TraceWarning")
def test_unsorted_trace_is_sorted_with_a_warning(
    phaseplan: Run, plan_file: Path, tmp_path: Path
) -> None:
    rows = ["0,100,10", "900,200,20", "500,300,30"]
    for name, order in (("unsorted", rows), ("sorted", [rows[0], rows[2], rows[1]])):
        (tmp_path / f"{name}.csv").write_text(TRACE + "\n".join(order) + "\n")
    words = ("simulate", plan_file, "--format", "json")
    unsorted = phaseplan(*words, tmp_path / "unsorted.csv")
    assert unsorted.code == 0
    (line,) = unsorted.stderr.splitlines()
    assert line.startswith("warning: ")
    assert "1 of 3 rows arrive before the row above them; sorted" in line
    # The same three requests, whichever way they are listed.
    assert unsorted.stdout == phaseplan(*words, tmp_path / "sorted.csv").stdout


def test_model_that_fits_nowhere_is_no_plan_and_no_file(
    phaseplan: Run, problem_file: Path, tmp_path: Path
) -> None:
    # 671e9 parameters in FP8 are 671 GB; four A100 have 320 GB.
    problem_file.write_text(TINY_PROBLEM.replace("opt-13b", "deepseek-v3"))
    output = tmp_path / "plan.json"
    output.write_text("the plan before")
    ended = phaseplan("plan", problem_file, "-o", output, "--set", "search.tp=[4]")
    assert (ended.code, ended.stdout) == (3, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"no plan: {problem_file}: ")
    assert "x does not fit the memory of a100_sxm (86 GB)" in line
    assert line.endswith(f"{output} is not written")
    assert output.read_text() == "the plan before"


def test_degree_that_does_not_divide_the_heads_is_counted(
    phaseplan: Run, problem_file: Path
) -> None:
    # OPT-13B has 40 heads: TP3 is refused for aggregated, prefill and decode replicas.
    ended = phaseplan("plan", problem_file, "--set", "search.tp=[3]")
    assert (ended.code, ended.stdout) == (3, "")
    (line,) = ended.stderr.splitlines()
    assert "x parallelism does not divide the model" in line


def test_degree_that_does_not_divide_is_left_out(
    phaseplan: Run, problem_file: Path
) -> None:
    words = ("--set", "search.tp=[1, 3]", "--format", "json")
    ended = phaseplan("plan", problem_file, *words)
    assert ended.code == 0
    assert '"parallelism does not divide the model": 1' in ended.stdout


def test_prompt_that_fits_no_replica_is_a_best_effort(
    phaseplan: Run, problem_file: Path
) -> None:
    # 50 million tokens are allowed, but no KV cache of four A100 holds them.
    problem_file.write_text(TINY_PROBLEM.replace("512x64", "50000000x64"))
    ended = phaseplan("plan", problem_file)
    assert ended.code == 3
    assert "NOT_FOUND" in ended.stdout
    (line,) = ended.stderr.splitlines()
    assert line.startswith("no plan: ")


# Options, and what the error says.
OPTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "unknown method": (
        ("--method", "distserv"),
        ("--method = 'distserv': expected a search method", "nearest is 'distserve'"),
    ),
    "no time": (("--time-limit", "0"), ("--time-limit = 0.0: expected a number > 0",)),
    "time is NaN": (("--time-limit", "nan"), ("--time-limit = nan",)),
    "output is a folder": (("-o", "."), ("--output = '.': expected a file, not a",)),
    "output in no folder": (
        ("-o", "no/such/plan.json"),
        ("--output = 'no/such/plan.json': expected a file in an existing folder",),
    ),
    "setting without a value": (
        ("--set", "objective.goal"),
        ("--set = 'objective.goal': expected PATH=VALUE",),
    ),
    "setting without a path": (("--set", "=3"), ("--set = '=3': expected PATH=VALUE",)),
    "setting that is no YAML": (
        ("--set", "search.tp=[1"),
        ("--set = 'search.tp=[1': expected a YAML value",),
    ),
    "setting beyond a list": (
        ("--set", "services[1].llm=opt-13b"),
        ("--set = 'services[1].llm=opt-13b': expected a path that exists", "1 entries"),
    ),
    "setting below a name": (
        ("--set", "cluster.name=x"),
        ("--set = 'cluster.name=x': expected a path through mappings", "'a100_1x4'"),
    ),
    "setting of an unknown key": (
        ("--set", "search.max_gpu=3"),
        ("search.max_gpu = 3: expected a known key", "nearest is 'max_gpus'"),
    ),
    "setting out of range": (
        ("--set", "services[0].workload.rate_rps=-1"),
        ("services[0].workload.rate_rps = -1.0: expected a number > 0",),
    ),
    "too small for exhaustive": (
        ("--method", "exhaustive", "--set", "cluster=two_nodes_a100"),
        ("tiny.yaml: --method = 'exhaustive'", "16 GPUs are too many"),
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_bad_option_of_plan_is_one_line(
    name: str, phaseplan: Run, problem_file: Path
) -> None:
    words, fragments = OPTIONS[name]
    one_error(phaseplan("plan", problem_file, *words), *fragments)


@pytest.mark.parametrize("value", ["nan", "inf", "0", "-3"])
@pytest.mark.parametrize("command", ["simulate", "compare"])
def test_bad_rate_is_one_line(
    command: str, value: str, phaseplan: Run, plan_file: Path
) -> None:
    ended = phaseplan(command, plan_file, "--rate", value)
    one_error(ended, f"--rate = {float(value)}: expected a number > 0")


def test_unwritable_output_is_one_line_and_no_file(
    phaseplan: Run, problem_file: Path
) -> None:
    if not Path("/proc/version").exists():
        pytest.skip("no folder here that even root cannot write to")
    ended = phaseplan("plan", problem_file, "-o", "/proc/plan.json")
    assert ended.code in (1, 2)
    (line,) = ended.stderr.splitlines()
    assert "/proc/plan.json" in line
