"""Result files of benchmarks become points at the load they really had."""

import json
from pathlib import Path

import pytest

from clusters.fields import InputError
from models.llm import LlmSpec
from models.profile_records import Environment, Role
from profiler.bench_results import read_bench_results

LLM = LlmSpec.load("opt-13b")
HERE = Environment(device="endpoint", device_name="file", gpu="h200_sxm", engine="vllm")
# 100 requests in 50 s, each 0.5 s to the first token and 99 gaps of 15 ms: 1.985 s in
# the system, so 100 / 50 x 1.985 = 3.97 are under way.
VLLM = {
    "duration": 50.0,
    "completed": 100,
    "total_input_tokens": 51_200,
    "total_output_tokens": 10_000,
    "median_ttft_ms": 480.0,
    "mean_ttft_ms": 500.0,
    "median_tpot_ms": 14.0,
    "mean_tpot_ms": 15.0,
    "p99_tpot_ms": 30.0,
}


def write(tmp_path: Path, data: dict[str, object]) -> Path:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(data))
    return path


def test_vllm_result_is_a_decode_point_at_its_mean_load(tmp_path: Path) -> None:
    (record,) = read_bench_results(write(tmp_path, VLLM), LLM, HERE)
    assert record.role is Role.FIT
    assert record.note == "from result.json; p90 is its p99"
    assert record.point.num_decodes == 4
    # Half of the 100 answer tokens are there on average: 512 + 50 each.
    assert record.point.kv_tokens == 4 * 562
    assert record.step is not None
    assert (record.step.ms, record.step.p90_ms) == (14.0, 30.0)


def test_requests_that_were_alone_are_a_prefill_point_too(tmp_path: Path) -> None:
    alone = VLLM | {"duration": 200.0}
    prefill, decode = read_bench_results(write(tmp_path, alone), LLM, HERE)
    assert prefill.point.new_tokens == (512,)
    assert decode.point.num_decodes == 1


def test_aiperf_result_is_read(tmp_path: Path) -> None:
    data = {
        "request_throughput": {"unit": "requests/sec", "avg": 2.0},
        "request_latency": {"unit": "ms", "avg": 4000.0},
        "request_count": {"unit": "requests", "avg": 50.0},
        "input_sequence_length": {"unit": "tokens", "avg": 1000.0},
        "output_sequence_length": {"unit": "tokens", "avg": 200.0},
        "time_to_first_token": {"unit": "ms", "p50": 90.0, "p90": 120.0},
        "inter_token_latency": {"unit": "ms", "p50": 18.0, "p90": 21.0},
    }
    (record,) = read_bench_results(write(tmp_path, data), LLM, HERE)
    # 2 a second for 4 s are 8 under way, with 1000 + 100 tokens each.
    assert (record.point.num_decodes, record.point.kv_tokens) == (8, 8800)


def test_missing_number_is_named_with_its_file(tmp_path: Path) -> None:
    broken = {k: v for k, v in VLLM.items() if k != "median_tpot_ms"}
    with pytest.raises(InputError, match=r"result.json: median_tpot_ms = None"):
        read_bench_results(write(tmp_path, broken), LLM, HERE)
