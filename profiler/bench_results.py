"""Result files of `vllm bench serve` (and AIPerf) as records of the part ``whole``.

Such a file sums a whole run up, so it gives one decode point: the median time per
output token at the mean number of requests under way. Where requests were alone it
gives a prefill point too: the median time to the first token. A sweep of runs, three or
more of them at concurrency 1 with prompts of different length, can be fitted. Times per
token under load hold the prompts that came in between.
"""

from pathlib import Path
from typing import Any

from clusters.fields import InputError
from clusters.serde import read_mapping
from clusters.units import MS_PER_S
from models.latency.profile import WHOLE
from models.llm import LlmSpec
from models.profile_records import (
    Environment,
    Role,
    Spread,
    Status,
    StepPoint,
    StepRecord,
)

_ALONE = 1.2
"""Up to this many requests under way, a time to the first token is a prefill step."""


def read_bench_results(
    path: str | Path, llm: LlmSpec, environment: Environment, *, tp: int = 1
) -> tuple[StepRecord, ...]:
    """Records of a ``vllm bench serve --save-result`` or AIPerf JSON file.

    Raises
    ------
    InputError
        When a number it needs is missing or impossible.
    """
    data = read_mapping(path)
    try:
        summary = (
            _of_aiperf(data) if "input_sequence_length" in data else _of_vllm(data)
        )
    except InputError as error:
        raise error.in_file(str(path)) from None
    records = []

    def add(point: StepPoint, ms: float, p90_ms: float) -> None:
        records.append(
            StepRecord(
                environment=environment,
                llm=llm,
                tp=tp,
                part=WHOLE,
                dtype="served",
                backend=environment.engine,
                point=point,
                role=Role.FIT,
                status=Status.OK,
                step=Spread(
                    ms=ms,
                    p10_ms=ms,
                    p90_ms=max(ms, p90_ms),
                    ci_frac=0.0,
                    num_samples=max(1, int(summary["num_requests"])),
                ),
                note=f"from {Path(path).name}{summary['tail']}",
            )
        )

    under_way = summary["under_way"]
    if under_way <= _ALONE:
        prompt = StepPoint(new_tokens=(max(1, round(summary["input_tokens"])),))
        add(prompt, summary["ttft_ms"], summary["ttft_p90_ms"])
    batch = max(1, round(under_way))
    context = summary["input_tokens"] + summary["output_tokens"] / 2
    decode = StepPoint(num_decodes=batch, kv_tokens=batch * context)
    add(decode, summary["tpot_ms"], summary["tpot_p90_ms"])
    return tuple(records)


def _of_vllm(data: dict[str, Any]) -> dict[str, Any]:
    num = _number(data, "completed")
    duration_s = _number(data, "duration")
    inputs = _number(data, "total_input_tokens") / num
    outputs = _number(data, "total_output_tokens") / num
    ttft, tpot = _number(data, "median_ttft_ms"), _number(data, "median_tpot_ms")
    mean_ttft = float(data.get("mean_ttft_ms", ttft))
    mean_tpot = float(data.get("mean_tpot_ms", tpot))
    in_system_s = (mean_ttft + mean_tpot * max(outputs - 1, 0)) / MS_PER_S
    return {
        "num_requests": num,
        "input_tokens": inputs,
        "output_tokens": outputs,
        "ttft_ms": ttft,
        "ttft_p90_ms": float(data.get("p90_ttft_ms", data.get("p99_ttft_ms", ttft))),
        # What `--percentile-metrics` leaves out by default.
        "tail": "" if "p90_tpot_ms" in data else "; p90 is its p99",
        "tpot_ms": tpot,
        "tpot_p90_ms": float(data.get("p90_tpot_ms", data.get("p99_tpot_ms", tpot))),
        # Little's law: requests under way = rate x time in the system.
        "under_way": num / duration_s * in_system_s,
    }


def _of_aiperf(data: dict[str, Any]) -> dict[str, Any]:
    def stat(key: str, name: str) -> float:
        return _number(data.get(key, {}), name, prefix=f"{key}.")

    rate = stat("request_throughput", "avg")
    in_system_s = stat("request_latency", "avg") / MS_PER_S
    return {
        "num_requests": stat("request_count", "avg"),
        "input_tokens": stat("input_sequence_length", "avg"),
        "output_tokens": stat("output_sequence_length", "avg"),
        "ttft_ms": stat("time_to_first_token", "p50"),
        "ttft_p90_ms": stat("time_to_first_token", "p90"),
        "tpot_ms": stat("inter_token_latency", "p50"),
        "tpot_p90_ms": stat("inter_token_latency", "p90"),
        "under_way": rate * in_system_s,
        "tail": "",
    }


def _number(data: dict[str, Any], key: str, *, prefix: str = "") -> float:
    value = data.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
        if 0 < number < float("inf"):
            return number
    raise InputError(f"{prefix}{key}", value, "a number > 0")
