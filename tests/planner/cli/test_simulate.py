"""``phaseplan simulate``: the plan's own numbers again, or those of another load."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planner.cli.simulate import ENGINES
from planner.engines import EnginePreset
from tests.planner.cli.conftest import one_error

Run = Callable[..., Any]

ROOT = Path(__file__).parents[3]
HEAD = ROOT / "examples" / "traces" / "azure_conversation_head.csv"
AZURE = ROOT.parent / "shared/data/traces/AzureLLMInferenceTrace_conv.csv"


def test_plan_is_simulated_as_when_it_was_made(
    phaseplan: Run, plan_file: Path, planned: str
) -> None:
    ended = phaseplan("simulate", plan_file, "--format", "json")
    assert (ended.code, ended.stderr) == (0, "")
    assert json.loads(ended.stdout) == json.loads(planned)["evaluation"]


def test_tables_fit_a_hundred_columns(phaseplan: Run, plan_file: Path) -> None:
    lines = phaseplan("simulate", plan_file).stdout.splitlines()
    assert max(len(line) for line in lines) <= 100
    assert {"Latency", "Load"} <= set(lines)


def test_trace_is_replayed_at_its_own_rate(phaseplan: Run, plan_file: Path) -> None:
    ended = phaseplan("simulate", plan_file, HEAD, "--format", "json")
    found = json.loads(ended.stdout)
    # 1,000 requests from 18:15:46.7 to 18:19:22.7: 999 gaps in 216 s are 4.62/s.
    assert found["num_requests"] == 1000
    assert found["rate_rps"] == pytest.approx(4.62, abs=0.01)
    assert found["num_rejected"] == 0
    assert ended.code == (0 if found["attainment"]["is_met"] else 3)


def test_rate_and_head_scale_and_cut_the_trace(phaseplan: Run, plan_file: Path) -> None:
    words = ("--rate", "2", "--head", "100", "--format", "json")
    found = json.loads(phaseplan("simulate", plan_file, HEAD, *words).stdout)
    assert found["num_requests"] == 100
    assert found["rate_rps"] == pytest.approx(2.0)
    assert found["offered_rps"] == 2.0


@pytest.mark.skipif(not AZURE.exists(), reason="no ../shared/data here")
def test_whole_azure_trace_is_replayed(phaseplan: Run, plan_file: Path) -> None:
    ended = phaseplan("simulate", plan_file, AZURE, "--format", "json")
    found = json.loads(ended.stdout)
    # FACTS.md: 19,366 requests.
    assert found["num_requests"] == 19366
    assert sum(r["num_requests"] for r in found["replicas"]) >= 19366


def test_missed_slo_exits_with_three(phaseplan: Run, plan_file: Path) -> None:
    ended = phaseplan("simulate", plan_file, "--rate", "1000")
    assert ended.code == 3
    assert "MISSED" in ended.stdout


def test_closed_loop_keeps_so_many_requests_in_the_system(
    phaseplan: Run, plan_file: Path
) -> None:
    words = ("--head", "200", "--format", "json")
    rates = []
    for concurrency in (1, 4):
        more = ("--concurrency", concurrency)
        found = json.loads(phaseplan("simulate", plan_file, *more, *words).stdout)
        assert found["num_requests"] == 200
        rates.append(found["output_tokens_per_s"])
    # Four clients at a time get more done than one, but not more than four times.
    assert rates[0] < rates[1] <= 4 * rates[0]


def test_concurrency_and_rate_exclude_each_other(
    phaseplan: Run, plan_file: Path
) -> None:
    ended = phaseplan("simulate", plan_file, "--concurrency", "4", "--rate", "2")
    assert ended.code == 2
    assert ended.stderr == "error: concurrency = 4: expected no rate beside it\n"


def test_output_file_has_the_form_of_its_suffix(
    phaseplan: Run, plan_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "found.json"
    ended = phaseplan("simulate", plan_file, "-o", output)
    assert ended.stdout == ""
    assert json.loads(output.read_text())["num_rejected"] == 0


def test_engine_is_simulated_and_named(phaseplan: Run, plan_file: Path) -> None:
    shown = phaseplan("simulate", plan_file, "--engine", "vllm")
    assert shown.code in (0, 3)
    assert "vllm" in shown.stdout
    assert max(len(line) for line in shown.stdout.splitlines()) <= 100
    words = ("--engine", "vllm", "--format", "json")
    found = json.loads(phaseplan("simulate", plan_file, *words).stdout)
    plain = json.loads(phaseplan("simulate", plan_file, "--format", "json").stdout)
    assert found["num_requests"] == plain["num_requests"]
    # The engine takes a moment for every request before its first step.
    assert _median_ttft_ms(found) > _median_ttft_ms(plain)


def _median_ttft_ms(evaluation: dict[str, Any]) -> float:
    (ttft,) = (each for each in evaluation["metrics"] if each["metric"] == "ttft")
    median_ms: float = ttft["p50_ms"]
    return median_ms


def test_unknown_engine_is_refused(phaseplan: Run, plan_file: Path) -> None:
    ended = phaseplan("simulate", plan_file, "--engine", "vlm")
    one_error(ended, "--engine", "vllm")


def test_engines_offered_are_the_presets() -> None:
    assert sorted(ENGINES) == list(EnginePreset.names())


def test_events_from_outside_are_told(
    phaseplan: Run, plan_file: Path, planned: str, tmp_path: Path
) -> None:
    name = json.loads(planned)["deployment"]["replicas"][0]["name"]
    path = tmp_path / "events.yaml"
    path.write_text(f"events: [{{at_s: 0.5, kind: drain, replica: {name}}}]")
    ended = phaseplan("simulate", plan_file, "--events", path)
    assert "Events" in ended.stdout
    assert "1 from outside" in ended.stdout
    path.write_text(f"events: [{{at_s: 0.5, kind: recover, replica: {name}}}]")
    ended = phaseplan("simulate", plan_file, "--events", path)
    one_error(ended, f"{path}: events[0].kind = 'recover': expected it after fail")
