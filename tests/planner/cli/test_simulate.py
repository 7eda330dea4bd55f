"""``phaseplan simulate``: the plan's own numbers again, or those of another load."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planner.cli.simulate import ENGINES, ROUTINGS
from planner.engines import EnginePreset
from planner.simulator.system import Routing
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


def test_clients_of_a_closed_loop_begin_over_a_ramp(
    phaseplan: Run, plan_file: Path
) -> None:
    words = ("--concurrency", 20, "--head", "40", "--format", "json")
    ended = phaseplan("simulate", plan_file, *words)
    at_once = json.loads(ended.stdout)["metrics"][0]["p90_ms"]
    ended = phaseplan("simulate", plan_file, *words, "--ramp", "10")
    assert json.loads(ended.stdout)["metrics"][0]["p90_ms"] < at_once
    ended = phaseplan("simulate", plan_file, "--ramp", "10")
    one_error(ended, "ramp = 10.0: expected a concurrency beside it")


def test_what_admission_refuses_and_what_caches_hold_is_told(
    phaseplan: Run, planned: str, tmp_path: Path
) -> None:
    plan = json.loads(planned)
    plan["problem"]["engine"]["admission"] = {"rule": "predicted"}
    (service,) = plan["problem"]["services"]
    service["prefix_cache"] = {"capacity_tokens": 100_000}
    service["workload"]["sessions"] = {"mean_turns": 3, "think_s": 5}
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    words = ("simulate", path, "--rate", "40", "--head", "300", "-q")
    found = json.loads(phaseplan(*words, "--format", "json").stdout)
    assert found["num_rejected"] == found["admission"]["num_refused"] > 0
    # Those let in do better than all of them together, and than all would.
    admitted = found["admission"]["admitted_joint_frac"]
    assert admitted > found["attainment"]["joint_frac"]
    assert admitted > found["admission"]["joint_frac_without"]
    assert 0 < found["prefix_use"]["hit_tokens_frac"] < 1
    assert 0 < found["replicas"][0]["prefix_hit_frac"] < 1
    table = phaseplan(*words).stdout
    assert "refused on arrival" in table
    assert "of the prompt tokens were cached" in table
    assert "hits" in table


def test_routing_may_differ_from_the_plans(phaseplan: Run, plan_file: Path) -> None:
    words = ("simulate", plan_file, "--format", "json")
    own = json.loads(phaseplan(*words).stdout)
    at_random = json.loads(phaseplan(*words, "--routing", "random").stdout)
    assert at_random["num_requests"] == own["num_requests"]
    ended = phaseplan(*words, "--routing", "shortest")
    one_error(ended, "--routing", "shortest_queue")
    assert tuple(sorted(ROUTINGS)) == tuple(sorted(map(str, Routing)))


def test_admission_may_differ_from_the_plans(phaseplan: Run, plan_file: Path) -> None:
    words = ("simulate", plan_file, "--rate", "40", "--head", "300", "-q")
    words += ("--format", "json")
    found = json.loads(phaseplan(*words, "--admission", "predicted").stdout)
    assert found["admission"]["num_refused"] > 0
    # Without it, the attainment is the one that was told beside it.
    free = json.loads(phaseplan(*words, "--admission", "none").stdout)
    assert free["admission"] is None
    joint_frac = free["attainment"]["joint_frac"]
    assert found["admission"]["joint_frac_without"] == joint_frac
    ended = phaseplan(*words, "--admission", "predict")
    one_error(ended, "--admission = 'predict'", "predicted")


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


def test_the_timeline_is_a_chrome_trace(
    phaseplan: Run, plan_file: Path, tmp_path: Path
) -> None:
    file = tmp_path / "timeline.json"
    ended = phaseplan("simulate", plan_file, "--timeline", file, "--format", "json")
    assert ended.code == 0
    assert "perfetto" in ended.stderr
    found = json.loads(file.read_text(encoding="utf-8"))
    events = found["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    assert spans
    assert all(event["dur"] >= 0 <= event["ts"] for event in spans)
    # Every replica has its name, and every life of a request that begins also ends.
    evaluation = json.loads(ended.stdout)
    names = {e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert {replica["name"] for replica in evaluation["replicas"]} < names
    begun, over = (
        sorted((e["id"], e["name"]) for e in events if e["ph"] == ph) for ph in "be"
    )
    assert begun == over
    # The numbers are those of a replay without it, and nothing is said to differ.
    assert "warning" not in ended.stderr


def test_a_timeline_in_no_folder_is_refused_at_once(
    phaseplan: Run, plan_file: Path, tmp_path: Path
) -> None:
    ended = phaseplan("simulate", plan_file, "--timeline", tmp_path / "no" / "t.json")
    assert ended.code == 2
    assert "--timeline" in ended.stderr


def test_gaps_intervals_bubbles_and_energy_are_told(
    phaseplan: Run, plan_file: Path
) -> None:
    ended = phaseplan("simulate", plan_file, "--format", "json")
    found = json.loads(ended.stdout)
    metrics = {metric["metric"]: metric for metric in found["metrics"]}
    assert list(metrics) == ["ttft", "tpot", "itl", "e2e"]
    assert metrics["itl"]["p50_ms"] <= metrics["itl"]["p99_ms"]
    for name in ("ttft", "tpot", "e2e"):
        assert 0 <= metrics[name]["p50_half_ms"] < metrics[name]["p50_ms"]
    assert found["joules_per_output_token"] > 0
    watts = sum(replica["power_w"] for replica in found["replicas"])
    joules = watts / found["output_tokens_per_s"]
    assert found["joules_per_output_token"] == pytest.approx(joules)
    assert all(replica["bubble_frac"] >= 0 for replica in found["replicas"])
    table = phaseplan("simulate", plan_file).stdout
    assert "±" in table
    assert "ITL" in table
    assert "bubbles" in table


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
