"""A replay repeats the plan's evaluation, unless it is asked for something else."""

from pathlib import Path

import pytest

from clusters.fields import InputError
from planner.engines import EnginePreset
from planner.plan import Plan
from planner.replay import ReplayOptions, replay, replay_workload, with_engine
from planner.serving import Planner
from planner.solve import solve
from tests.planner.tiny_problems import QUICK, TINY_LIBRARY, tiny_problem

TRACE = "arrival_ms,input_tokens,output_tokens\n" + "".join(
    f"{1000 * i},{50 + 50 * (i % 2)},11\n" for i in range(20)
)


@pytest.fixture(scope="module")
def plan() -> Plan:
    best = solve(tiny_problem(), TINY_LIBRARY, effort=QUICK).best
    assert best is not None
    return best


@pytest.fixture
def trace(tmp_path: Path) -> str:
    path = tmp_path / "trace.csv"
    path.write_text(TRACE)
    return str(path)


def test_without_options_every_number_is_that_of_the_plan(plan: Plan) -> None:
    assert replay(plan, latency=TINY_LIBRARY) == plan.evaluation


def test_another_seed_gives_other_requests(plan: Plan) -> None:
    found = replay(plan, ReplayOptions(seed=1), latency=TINY_LIBRARY)
    assert found.num_requests == plan.evaluation.num_requests
    assert found.rate_rps != plan.evaluation.rate_rps


def test_trace_is_replayed_from_its_first_to_its_last_request(
    plan: Plan, trace: str
) -> None:
    found = replay(plan, ReplayOptions(trace=trace), latency=TINY_LIBRARY)
    # 19 gaps of one second.
    assert (found.num_requests, found.rate_rps) == (20, pytest.approx(1.0))
    assert found.offered_rps is None
    ttft = found.metric("ttft")
    assert ttft is not None
    assert ttft.p50_ms > 0


def test_trace_is_scaled_to_a_rate(plan: Plan, trace: str) -> None:
    options = ReplayOptions(trace=trace, rate_rps=4.0, head=10)
    found = replay(plan, options, latency=TINY_LIBRARY)
    assert (found.num_requests, found.rate_rps) == (10, pytest.approx(4.0))


def test_closed_loop_draws_from_the_lengths_of_the_trace(
    plan: Plan, trace: str
) -> None:
    options = ReplayOptions(trace=trace, concurrency=2, head=6)
    workload = replay_workload(plan, options)
    assert workload.concurrency == 2
    requests = workload.draw(40, seed=0)
    assert set(requests.input_tokens.tolist()) == {50, 100}
    assert replay(plan, options, latency=TINY_LIBRARY).num_requests == 6


def test_closed_loop_of_the_plans_own_lengths(plan: Plan) -> None:
    options = ReplayOptions(concurrency=1, head=8)
    found = replay(plan, options, latency=TINY_LIBRARY)
    # One at a time never waits: every request takes as long as the others.
    e2e = found.metric("e2e")
    assert e2e is not None
    assert e2e.p99_ms == pytest.approx(e2e.p50_ms)


def test_rate_and_concurrency_exclude_each_other() -> None:
    with pytest.raises(InputError, match="concurrency = 2: expected no rate beside it"):
        ReplayOptions(rate_rps=1.0, concurrency=2)


def test_a_rule_of_admission_that_there_is_not_is_refused() -> None:
    with pytest.raises(InputError, match="admission = 'soon': expected one of none, "):
        ReplayOptions(admission="soon")


@pytest.mark.parametrize(
    ("field", "value"),
    [("rate_rps", 0.0), ("rate_rps", float("nan")), ("head", 0), ("seed", -1)],
)
def test_options_out_of_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(InputError, match=field):
        ReplayOptions(**{field: value})


def test_engine_brings_its_limits_memory_and_handling(plan: Plan) -> None:
    preset = EnginePreset.load("vllm")
    planner = Planner(problem=plan.problem, library=TINY_LIBRARY)
    deployment = with_engine(preset, planner, plan.deployment)
    for before, after in zip(
        plan.deployment.replicas, deployment.replicas, strict=True
    ):
        gpu = plan.problem.cluster.topology.gpu(before.gpu_indices[0]).type
        assert after.limits == preset.limits(gpu)
        assert after.kv_block_tokens == preset.block_tokens
        assert after.parallelism == before.parallelism
    found = replay(plan, ReplayOptions(engine="vllm"), latency=TINY_LIBRARY)
    assert found.num_requests == plan.evaluation.num_requests
    (ttft,) = (each for each in found.metrics if each.metric == "ttft")
    assert ttft.p50_ms >= preset.fit.overheads.request_ms


def test_engine_serves_a_closed_loop(plan: Plan) -> None:
    options = ReplayOptions(engine="sglang", concurrency=3, head=60)
    found = replay(plan, options, latency=TINY_LIBRARY)
    assert (found.num_requests, found.num_rejected) == (60, 0)
    assert found == replay(plan, options, latency=TINY_LIBRARY)


def test_engine_must_be_known(plan: Plan) -> None:
    with pytest.raises(InputError, match="vllm"):
        replay(plan, ReplayOptions(engine="vlm"))


def test_events_from_outside_are_counted(
    plan: Plan, trace: str, tmp_path: Path
) -> None:
    """All replicas fail in the middle of a decode and come back a second later."""
    path = tmp_path / "events.yaml"
    calm = replay(plan, ReplayOptions(trace=trace), latency=TINY_LIBRARY)
    assert calm.disturbance is None
    lines = [
        f"  - {{at_s: {at}, kind: {kind}, replica: {replica.name}}}"
        for replica in plan.deployment.replicas
        for at, kind in ((5.01, "fail"), (6.01, "recover"))
    ]
    path.write_text("events:\n" + "\n".join(lines))
    options = ReplayOptions(trace=trace, events=str(path))
    found = replay(plan, options, latency=TINY_LIBRARY)
    assert found.disturbance is not None
    assert found.disturbance.num_events == 2 * len(plan.deployment.replicas)
    assert found.disturbance.num_recomputed == 1
    assert found.disturbance.num_unfinished == 0
    slow, usual = found.metric("e2e"), calm.metric("e2e")
    assert slow is not None
    assert usual is not None
    assert slow.p99_ms > usual.p99_ms + 500


def test_a_schedule_of_other_replicas_names_its_file(
    plan: Plan, tmp_path: Path
) -> None:
    path = tmp_path / "events.yaml"
    path.write_text("events: [{at_s: 1, kind: fail, replica: prefil-0}]")
    with pytest.raises(InputError, match=r"events.yaml: events\[0\].replica"):
        replay(plan, ReplayOptions(events=str(path)), latency=TINY_LIBRARY)
