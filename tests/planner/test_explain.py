"""An explanation names the bottleneck and says what a change would do."""

import pytest

from planner.explain import Explanation, changed, explain
from planner.plan import Plan
from planner.simulator.system import Phase
from planner.slo import Slo
from planner.solve import solve
from tests.planner.tiny_problems import (
    QUICK,
    TINY_LIBRARY,
    tiny_problem,
)


def planned(**changes) -> Plan:
    problem = tiny_problem(**changes)
    best = solve(problem, TINY_LIBRARY, method="distserve-high", effort=QUICK).best
    assert best is not None
    return best


@pytest.fixture(scope="module")
def plan() -> Plan:
    return planned(max_pp=1, tp=(1,), max_replicas=1)


@pytest.fixture(scope="module")
def found(plan: Plan) -> Explanation:
    return explain(plan, TINY_LIBRARY)


def test_phases_alone_are_at_least_as_good_as_the_whole(
    plan: Plan, found: Explanation
) -> None:
    assert [room.phase for room in found.phases] == [Phase.PREFILL, Phase.DECODE]
    assert [room.shape for room in found.phases] == [
        f"1 x {plan.deployment.replicas[0].shape}",
        "1 x decode tiny TP1 PP1",
    ]
    # Up to the tolerance of both searches.
    for room in found.phases:
        assert room.capacity_rps > 0.95 * plan.goodput.rate_rps


def test_bottleneck_is_the_phase_with_the_least_room(found: Explanation) -> None:
    # 20 ms of prefill are at most 50 requests/s on one GPU. A decode step of B requests
    # takes 10 + 0.5 B <= 16 ms for B <= 12, so 10 steps of 12 requests are at most
    # 12 / 0.16 s = 75 requests/s.
    prefill, decode = found.phases
    assert prefill.capacity_rps < 50
    assert decode.capacity_rps < 75
    assert prefill.capacity_rps < decode.capacity_rps
    assert found.bottleneck.startswith("prefill limits the plan")
    assert "TTFT breaks first" in found.bottleneck


def test_tight_tpot_makes_decode_the_bottleneck() -> None:
    # B = 2 at most: 2 / 0.11 s = 18 requests/s, fewer than prefill can do.
    slo = Slo(ttft_ms=200.0, tpot_ms=11.0)
    plan = planned(max_pp=1, tp=(1,), max_replicas=1, slo=slo)
    found = explain(plan, TINY_LIBRARY)
    assert found.bottleneck.startswith("decode limits the plan")


def test_beyond_the_goodput_the_slo_is_missed(found: Explanation) -> None:
    assert not found.overload.is_met


def test_more_load_never_helps(found: Explanation) -> None:
    shares = {each.change: each.attainment_frac for each in found.sensitivities}
    for what in ("rate", "input length", "output length"):
        assert shares[f"{what} +10%"] <= shares[f"{what} -10%"]


def test_plan_itself_is_the_first_row_of_the_ratios(
    plan: Plan, found: Explanation
) -> None:
    first = found.ratios[0]
    assert (first.change, first.ratio, first.num_gpus) == ("as planned", "1P1D", 2)
    assert first.goodput_rps == pytest.approx(plan.goodput.rate_rps, rel=0.1)
    assert first.goodput_per_gpu_rps == first.goodput_rps / 2


def test_another_replica_of_the_bottleneck_helps_most(found: Explanation) -> None:
    goodputs = {each.ratio: each.goodput_rps for each in found.ratios}
    assert set(goodputs) == {"1P1D", "2P1D", "1P2D"}
    # Prefill is the bottleneck: more of it help, up to what decode alone would do.
    prefill, decode = (room.capacity_rps for room in found.phases)
    assert goodputs["1P1D"] < goodputs["1P2D"] <= prefill
    assert prefill < goodputs["2P1D"] <= decode


def test_aggregated_plan_has_one_phase() -> None:
    problem = tiny_problem(max_pp=1, tp=(1,), max_replicas=1)
    best = solve(problem, TINY_LIBRARY, method="aggregated", effort=QUICK).best
    assert best is not None
    found = explain(best, TINY_LIBRARY)
    assert [room.phase for room in found.phases] == [Phase.AGGREGATED]
    assert [each.ratio for each in found.ratios] == ["1 aggregated", "2 aggregated"]


def test_changed_scales_one_thing_only() -> None:
    problem = tiny_problem()
    base = problem.service.workload.draw(50, seed=0)
    faster = changed(base, "rate", 2.0)
    assert faster.rate_rps == pytest.approx(2 * base.rate_rps)
    assert faster.input_tokens.tolist() == base.input_tokens.tolist()
    longer = changed(base, "input length", 1.1)
    assert set(longer.input_tokens.tolist()) == {110}
    assert longer.output_tokens.tolist() == base.output_tokens.tolist()
    shorter = changed(base, "output length", 0.01)
    assert set(shorter.output_tokens.tolist()) == {1}


def test_best_effort_without_goodput_is_explained_too() -> None:
    slo = Slo(ttft_ms=1.0)
    plan = planned(max_pp=1, tp=(1,), max_replicas=1, slo=slo)
    assert plan.goodput.rate_rps == 0
    found = explain(plan, TINY_LIBRARY)
    assert {each.goodput_rps for each in found.ratios} == {0.0}
    assert "TTFT breaks first: 0.0%" in found.bottleneck


def test_explaining_twice_gives_the_same(plan: Plan, found: Explanation) -> None:
    assert explain(plan, TINY_LIBRARY) == found
