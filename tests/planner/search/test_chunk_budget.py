"""The chunk budget: the step time rule by hand, the ladder, and its climb."""

import pytest

from models.latency.step_table import StepTable
from planner.search.chunk_budget import (
    StepLoad,
    best_chunk_budget,
    climb_ladder,
    ladder,
    largest_budget,
    limits_of_policy,
    saturating_budget,
)
from planner.simulator.system import Batching, BatchLimits, Phase
from planner.slo import Slo
from tests.planner.tiny_problems import context_of, planner_of, shape, tiny_problem

# F(x) = 10 + 0.1 x ms, a decode step of any batch 10 ms: a mixed step of x tokens takes
# F(x) plus what the decodes have beside the linear layers, here nothing.
STAGE = StepTable(
    prefill_tokens=(0.0, 8192.0),
    prefill_ms=(10.0, 829.2),
    prefill_per_sq_token_ms=0.0,
    decode_batch=(1.0, 256.0),
    decode_ms=(10.0, 10.0),
    decode_per_kv_token_ms=(0.0, 0.0),
)
LOAD = StepLoad(
    decodes_frac=0.1, max_decodes=64.0, prompt_tokens=1000.0, context_tokens=500.0
)


def test_a_full_step_takes_the_time_of_its_tokens():
    # 512 tokens: 51 decodes and 461 of prompts, F(512) = 61.2 ms.
    assert LOAD.step_ms([STAGE], 512) == pytest.approx(61.2)


@pytest.mark.parametrize(
    ("limit_ms", "budget"),
    [
        (61.2, 512),  # F(512) = 61.2 is within
        (61.1, 384),
        (1e6, 8192),  # nothing but the engine limits it
        (1.0, 128),  # not even one tile: the least there is
    ],
)
def test_the_rule_takes_the_largest_multiple_of_the_tile(limit_ms, budget):
    found = largest_budget([STAGE], LOAD, limit_ms, max_tokens=8192)
    assert found == budget


def test_a_token_passes_all_stages():
    # Two stages of F: 2 * F(256) = 71.2 ms, 2 * F(384) = 96.8.
    assert largest_budget([STAGE, STAGE], LOAD, 80.0, max_tokens=8192) == 256


def test_a_larger_limit_never_wants_a_smaller_budget():
    budgets = [
        largest_budget([STAGE], LOAD, limit, max_tokens=8192)
        for limit in (20.0, 40.0, 80.0, 160.0, 320.0)
    ]
    assert budgets == sorted(budgets)
    assert budgets[0] < budgets[-1]


def test_the_saturating_budget_has_nine_tenths_of_the_best_token_rate():
    # x / (10 + 0.1 x) is 9.88 at 8192 and reaches 8.89 at x = 801: next rung 1024.
    assert saturating_budget([STAGE], ladder(8192)) == 1024


def test_the_ladder_goes_from_a_tile_to_the_engine_limit():
    rungs = ladder(2000)
    assert rungs == [128, 256, 384, 512, 768, 1024, 1536, 2000]
    assert ladder(100) == [100]


@pytest.mark.parametrize(
    ("rates", "start", "best"),
    [
        ((1, 2, 3, 2, 9), 1, 2),  # up, to the first fall
        ((5, 4, 3, 2, 1), 2, 0),  # down where up is worse
        ((0, 0, 0, 0, 2), 1, 4),  # over rungs that meet the SLO at no rate
        ((0, 0, 0, 0, 0), 3, 3),
    ],
)
def test_the_climb_ends_at_the_best_of_its_way(rates, start, best):
    def rate(rung, floor_rps):
        return float(rates[rung]) if rates[rung] >= floor_rps else 0.0

    assert climb_ladder(range(5), start, rate) == (best, float(rates[best]))


def test_a_policy_leaves_out_what_it_does_not_read():
    engine = BatchLimits(max_step_context_tokens=5000)
    limits = limits_of_policy(engine, Batching.CHUNKED, 128)
    assert limits.max_step_context_tokens is None
    assert (limits.max_batch_tokens, limits.max_num_seqs) == (128, 128)
    back = limits_of_policy(
        BatchLimits(policy=Batching.CHUNKED, max_chunk_tokens=64), Batching.ORCA
    )
    assert back.max_chunk_tokens is None


def test_the_best_budget_is_as_good_as_every_other_on_the_ladder():
    problem = tiny_problem()
    context = context_of(problem)
    planner, evaluator = planner_of(problem), context.evaluator
    alone = planner.deploy([shape(Phase.AGGREGATED)])
    slo = Slo(ttft_ms=300, tpot_ms=30, attainment_frac=0.9)
    choice = best_chunk_budget(evaluator, alone, slo)
    rates = []
    for budget in ladder(problem.engine.limits.max_batch_tokens):
        limits = limits_of_policy(problem.engine.limits, Batching.CHUNKED, budget)
        system = planner.system(alone.with_limits(limits))
        rates.append(evaluator.system_goodput(system, slo).rate_rps)
    assert choice.rate_rps > 0
    assert choice.rate_rps >= 0.96 * max(rates)
    assert choice.limits.policy is Batching.CHUNKED
