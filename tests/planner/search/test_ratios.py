"""Ratios: numbers of replicas that match, by hand."""

import pytest

from planner.objective import Goal
from planner.search.ratios import (
    RatedShape,
    best_of_each_type,
    gpu_budget,
    pair_mixes,
    single_mixes,
)
from planner.simulator.system import Phase
from tests.planner.tiny_problems import (
    mixed_cluster,
    shape,
    tiny_cluster,
    tiny_problem,
)


def rated(phase, rate_rps, tp=1, usd=1.0, light_load_frac=1.0):
    return RatedShape(
        shape=shape(phase, tp=tp),
        rate_rps=rate_rps,
        usd_per_hour=usd,
        light_load_frac=light_load_frac,
    )


def numbers(mixes):
    return [tuple(count for _, count in mix.counts) for mix in mixes]


def test_the_paper_s_example_takes_two_prefill_for_one_decode():
    # DistServe, section 2.3: prefill 5.6 and decode 10 requests/s a GPU: 2P1D gives
    # 10 requests/s on 3 GPUs, 3.3 a GPU, 2.1 times the 1.6 of an aggregated one.
    problem = tiny_problem(cluster=tiny_cluster(1, 3))
    prefill, decode = rated(Phase.PREFILL, 5.6), rated(Phase.DECODE, 10.0)
    best = pair_mixes(problem, [prefill], [decode])[0]
    assert numbers([best]) == [(2, 1)]
    assert best.promised_rps == 10.0
    assert best.promised_rps / best.num_gpus == pytest.approx(3.33, abs=0.01)


def test_numbers_below_and_above_the_match_are_kept():
    problem = tiny_problem(goal=Goal.MAX_GOODPUT)
    prefill, decode = rated(Phase.PREFILL, 6.0), rated(Phase.DECODE, 4.0)
    # x prefill replicas match 1.5 x decode ones; four GPUs in all.
    assert sorted(numbers(pair_mixes(problem, [prefill], [decode]))) == [
        (1, 1),
        (1, 2),
        (2, 2),
        (3, 1),
    ]


def test_a_target_ends_the_count():
    problem = tiny_problem(goal=Goal.MIN_GPUS, rate_rps=4.0)
    prefill, decode = rated(Phase.PREFILL, 6.0), rated(Phase.DECODE, 4.0)
    assert numbers(pair_mixes(problem, [prefill], [decode])) == [(1, 1)]


def test_single_replicas_are_counted_to_the_target():
    both = rated(Phase.AGGREGATED, 3.0)
    goal = Goal.MIN_GPUS
    for target, wanted in ((2.0, [(1,)]), (7.0, [(3,)]), (99.0, [(4,)])):
        problem = tiny_problem(goal=goal, rate_rps=target)
        assert numbers(single_mixes(problem, [both])) == [wanted[0]]
    free = tiny_problem(goal=Goal.MAX_GOODPUT)
    assert numbers(single_mixes(free, [both])) == [(4,), (1,)]


def test_without_promises_one_of_each_remains_for_a_best_effort():
    problem = tiny_problem()
    near = rated(Phase.PREFILL, 0.0, light_load_frac=0.7)
    far = rated(Phase.PREFILL, 0.0, tp=2, light_load_frac=0.1)
    decode = rated(Phase.DECODE, 4.0)
    mixes = pair_mixes(problem, [far, near], [decode])
    assert numbers(mixes) == [(1, 1), (1, 1)]
    assert mixes[0].counts[0][0] is near


def test_mixes_rank_like_candidates():
    cheap = rated(Phase.AGGREGATED, 3.0, tp=2, usd=1.0)
    small = rated(Phase.AGGREGATED, 3.0, usd=2.0)
    for goal, best in ((Goal.MIN_GPUS, small), (Goal.MIN_COST, cheap)):
        problem = tiny_problem(goal=goal, rate_rps=3.0)
        assert single_mixes(problem, [cheap, small])[0].counts[0][0] is best
    unknown = rated(Phase.AGGREGATED, 3.0, usd=None)
    problem = tiny_problem(goal=Goal.MIN_COST, rate_rps=3.0)
    assert single_mixes(problem, [unknown, cheap])[0].counts[0][0] is cheap


def test_no_more_replicas_are_promised_than_there_are_gpus_of_the_type():
    problem = tiny_problem(cluster=mixed_cluster(), goal=Goal.MAX_GOODPUT)
    assert numbers(single_mixes(problem, [rated(Phase.AGGREGATED, 1.0)])) == [
        (2,),
        (1,),
    ]
    prefill, decode = rated(Phase.PREFILL, 1.0), rated(Phase.DECODE, 1.0)
    assert numbers(pair_mixes(problem, [prefill], [decode])) == [(1, 1)]
    wanted = tiny_problem(cluster=mixed_cluster(), goal=Goal.MIN_GPUS, rate_rps=3.0)
    assert numbers(single_mixes(wanted, [rated(Phase.AGGREGATED, 1.0)])) == [(2,)]


def test_replicas_that_straddle_nodes_are_not_promised():
    # Two nodes of three GPUs hold two replicas of two, not three.
    problem = tiny_problem(cluster=tiny_cluster(2, 3), goal=Goal.MAX_GOODPUT)
    assert numbers(single_mixes(problem, [rated(Phase.AGGREGATED, 1.0, tp=2)])) == [
        (2,),
        (1,),
    ]


@pytest.mark.parametrize(("max_gpus", "budget"), [(None, 4), (3, 3), (9, 4)])
def test_the_budget_is_the_cluster_or_less(max_gpus, budget):
    assert gpu_budget(tiny_problem(max_gpus=max_gpus)) == budget


def test_best_of_each_type_is_the_best_per_gpu_and_the_smallest():
    rated = [
        RatedShape(shape=shape(Phase.AGGREGATED, tp=1), rate_rps=1.0),
        RatedShape(shape=shape(Phase.AGGREGATED, tp=2), rate_rps=5.0),
        RatedShape(shape=shape(Phase.AGGREGATED, tp=4), rate_rps=6.0),
        RatedShape(shape=shape(Phase.AGGREGATED, tp=1, gpu_type="idle"), rate_rps=0.0),
    ]
    # 1, 2.5 and 1.5 per GPU; a type that serves nothing offers nothing.
    assert best_of_each_type(rated) == [rated[1].shape, rated[0].shape]
