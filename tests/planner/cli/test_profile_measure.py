"""`phaseplan profile endpoint`, `import` and `collectives`: other things to measure."""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from models.latency.profile import Profile

Phaseplan = Callable[..., Any]
ROOT = Path(__file__).resolve().parents[3]


def _server() -> ModuleType:
    """The server of known law beside the tests of the profiler."""
    path = ROOT / "tests" / "profiler" / "serving_law.py"
    spec = importlib.util.spec_from_file_location("serving_law", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["serving_law"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


law = _server()
FAST = (
    *("--prompt-tokens", "16,64,256", "--concurrency", "1,2", "--contexts", "16,64"),
    *("--answer-tokens", 6, "--repeats", 1, "--served-name", "law", "--gpu", "l4"),
)


def test_server_is_measured_fitted_and_shown(
    tmp_path: Path, phaseplan: Phaseplan
) -> None:
    records, profile = tmp_path / "endpoint.jsonl", tmp_path / "endpoint.json"
    with law.serving() as server:
        url = f"http://127.0.0.1:{server.port}/v1"
        ended = phaseplan("profile", "endpoint", url, "opt-13b", "-r", records, *FAST)
    assert ended.code == 0, ended.stderr
    # 3 prompts, and two halves of 4 answers.
    assert "11 of 11 points" in ended.stderr
    assert phaseplan("profile", "fit", records, "-o", profile).code == 0
    shown = phaseplan("profile", "show", profile)
    assert "openai" in shown.stdout
    assert Profile.load(profile).gpu == "l4"


def test_points_before_a_server_breaks_are_on_the_disk(
    tmp_path: Path, phaseplan: Phaseplan
) -> None:
    records = tmp_path / "endpoint.jsonl"
    # Every answer of more than one token breaks off.
    with law.serving("closes") as server:
        url = f"http://127.0.0.1:{server.port}/v1"
        ended = phaseplan("profile", "endpoint", url, "opt-13b", "-r", records, *FAST)
    assert ended.code == 0, ended.stderr
    assert "3 of 7 points" in ended.stderr
    assert "closed after 1 of 6 tokens" in ended.stderr
    statuses = [json.loads(line)["status"] for line in records.read_text().splitlines()]
    assert statuses == ["ok"] * 3 + ["not_measured"] * 4


@pytest.mark.parametrize("option", ["--prompt-tokens", "--concurrency", "--contexts"])
def test_slip_in_a_list_names_its_option(option: str, phaseplan: Phaseplan) -> None:
    ended = phaseplan(
        *("profile", "endpoint", "http://127.0.0.1:9/v1", "opt-13b", "--gpu", "l4"),
        *(option, "1,many"),
    )
    assert ended.code == 2
    assert ended.stderr.startswith(f"error: {option}")


def test_server_that_is_not_there_exits_with_one(
    tmp_path: Path, phaseplan: Phaseplan
) -> None:
    with law.serving() as server:
        url = f"http://127.0.0.1:{server.port + 1}/v1"
    ended = phaseplan(
        "profile", "endpoint", url, "opt-13b", "-r", tmp_path / "r.jsonl", *FAST
    )
    assert ended.code == 1
    assert url in ended.stderr


def _vllm(path: Path, *, batch: int, inputs: int, outputs: int = 101) -> None:
    """A result file of a server on which a step takes 10 + batch + KV/1000 ms.

    Prompts take 5 ms and a tenth of a ms a token.
    """
    kv = batch * (inputs + outputs / 2)
    tpot, ttft = 10 + batch + kv / 1000, 5 + inputs / 10
    in_system_s = (ttft + tpot * (outputs - 1)) / 1000
    found = {
        "completed": 100,
        "duration": 100 * in_system_s / batch,
        "total_input_tokens": 100 * inputs,
        "total_output_tokens": 100 * outputs,
        "median_ttft_ms": ttft,
        "median_tpot_ms": tpot,
    }
    path.write_text(json.dumps(found))


def test_sweep_of_benchmark_files_becomes_a_profile(
    tmp_path: Path, phaseplan: Phaseplan
) -> None:
    records, profile = tmp_path / "imported.jsonl", tmp_path / "profile.json"
    runs = [(1, 100), (1, 1000), (1, 4000), (8, 500), (8, 2000), (32, 500), (32, 2000)]
    for batch, inputs in runs:
        result = tmp_path / f"{batch}x{inputs}.json"
        _vllm(result, batch=batch, inputs=inputs)
        ended = phaseplan(
            "profile", "import", result, "opt-13b", "--gpu", "l4", "-r", records
        )
        assert ended.code == 0, ended.stderr
    ended = phaseplan("profile", "fit", records, "-o", profile)
    assert ended.code == 0, ended.stderr
    table = Profile.load(profile).models[0].parts[0].table
    assert table.prefill_step_ms([2000]) == pytest.approx(205, rel=0.02)
    assert table.decode_step_ms(16, 16 * 1000) == pytest.approx(10 + 16 + 16, rel=0.02)


def test_file_of_no_benchmark_is_refused(tmp_path: Path, phaseplan: Phaseplan) -> None:
    result = tmp_path / "result.json"
    result.write_text('{"completed": 3}')
    ended = phaseplan("profile", "import", result, "opt-13b", "--gpu", "l4")
    assert ended.code == 2
    assert "result.json: duration" in ended.stderr


@pytest.mark.slow
def test_collectives_of_this_host_are_written(
    tmp_path: Path, phaseplan: Phaseplan
) -> None:
    pytest.importorskip("torch", reason="the profiler needs torch")
    from models.profile_table import read_profile_table

    path = tmp_path / "collectives.jsonl"
    ended = phaseplan(
        *("profile", "collectives", "--device", "cpu", "-n", 2, "--samples", 6),
        *("-r", path, "--max-seconds", 110, "--bytes", "1024,65536"),
    )
    assert ended.code == 0, ended.stderr
    found = read_profile_table(path).collectives
    assert {r.num_ranks for r in found} == {2}
    assert {r.message_bytes for r in found} == {1024, 65536}
    assert {"all_reduce", "all_to_all", "send_recv"} <= {r.operation for r in found}
