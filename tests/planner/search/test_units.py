"""Units of low node-affinity: segments share nodes, requests stay in their unit."""

import pytest

from planner.objective import Goal
from planner.search.ratios import Mix, RatedShape
from planner.search.units import (
    Unit,
    most_units,
    place_units,
    ranked_units,
    repetitions,
)
from planner.simulator.system import Phase
from tests.planner.tiny_problems import planner_of, shape, tiny_cluster, tiny_problem


def rated(phase, rate_rps=1.0, **parallelism):
    return RatedShape(shape=shape(phase, **parallelism), rate_rps=rate_rps)


def unit_of(prefill, decode, num_nodes=1, counts=(1, 1)):
    pairs = ((prefill, counts[0]), (decode, counts[1]))
    return Unit(mix=Mix(counts=pairs, promised_rps=1.0), num_nodes=num_nodes)


def test_segments_of_both_phases_lie_on_the_same_nodes():
    planner = planner_of(tiny_problem(cluster=tiny_cluster(2)))
    unit = unit_of(
        rated(Phase.PREFILL, tp=2, pp=2), rated(Phase.DECODE, pp=2), num_nodes=2
    )
    prefill, decode = place_units(planner, unit, 1).replicas
    assert prefill.stage_gpus == ((0, 1), (4, 5))
    assert decode.stage_gpus == ((2,), (6,))


def test_units_pair_only_within_themselves():
    planner = planner_of(tiny_problem())
    pair = unit_of(rated(Phase.PREFILL), rated(Phase.DECODE))
    deployment = place_units(planner, pair, 2)
    assert [r.slice for r in deployment.replicas] == [0, 1, 0, 1]
    assert len(deployment.routes) == 2


def test_units_that_do_not_fit_have_no_place():
    planner = planner_of(tiny_problem(cluster=tiny_cluster(2, 2)))
    wide = unit_of(rated(Phase.PREFILL, tp=2), rated(Phase.DECODE))
    assert place_units(planner, wide, 1) is None
    pair = unit_of(rated(Phase.PREFILL), rated(Phase.DECODE))
    assert place_units(planner, pair, 2) is not None
    assert place_units(planner, pair, 3) is None


def test_units_are_cut_where_their_stages_divide():
    problem = tiny_problem(cluster=tiny_cluster(2, 2))
    found = ranked_units(
        problem, [rated(Phase.PREFILL, pp=2)], [rated(Phase.DECODE, pp=2)]
    )
    # Four GPUs: too many for one node of two, one stage of each on each of two nodes.
    assert [(unit.num_nodes, unit.mix.num_gpus) for unit in found] == [(2, 4)]


def test_units_fill_a_node_with_any_ratio():
    problem = tiny_problem()
    found = ranked_units(problem, [rated(Phase.PREFILL)], [rated(Phase.DECODE)])
    ratios = {tuple(count for _, count in unit.mix.counts) for unit in found}
    assert ratios == {(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (3, 1)}


def test_units_keep_to_the_gpus_that_a_plan_may_use():
    problem = tiny_problem(max_gpus=2)
    found = ranked_units(problem, [rated(Phase.PREFILL)], [rated(Phase.DECODE)])
    assert [unit.mix.num_gpus for unit in found] == [2]
    assert most_units(problem, found[0]) == 1


def test_the_best_use_of_gpus_comes_first():
    problem = tiny_problem()
    prefills = [rated(Phase.PREFILL, 4.0), rated(Phase.PREFILL, 5.0, tp=2)]
    best = ranked_units(problem, prefills, [rated(Phase.DECODE, 8.0)])[0]
    # 2 prefill and 1 decode: 8 requests/s on 3 GPUs.
    assert tuple(count for _, count in best.mix.counts) == (2, 1)


@pytest.mark.parametrize(
    ("goal", "target", "rate", "numbers"),
    [
        (Goal.MAX_GOODPUT, 9.0, 2.0, [4, 3, 2]),
        (Goal.MAX_GOODPUT, 9.0, 0.0, []),
        (Goal.MIN_GPUS, 5.0, 2.0, [3, 4]),
        (Goal.MIN_GPUS, 2.0, 2.0, []),
        (Goal.MIN_GPUS, 99.0, 2.0, [4]),
    ],
)
def test_a_unit_is_repeated_to_the_target_or_the_cluster(goal, target, rate, numbers):
    problem = tiny_problem(goal=goal, rate_rps=target, cluster=tiny_cluster(2))
    pair = unit_of(rated(Phase.PREFILL), rated(Phase.DECODE))
    assert list(repetitions(problem, pair, rate)) == numbers


def test_a_limit_on_replicas_limits_units():
    problem = tiny_problem(cluster=tiny_cluster(2), max_replicas=2)
    pair = unit_of(rated(Phase.PREFILL), rated(Phase.DECODE), counts=(2, 1))
    assert most_units(problem, pair) == 1
