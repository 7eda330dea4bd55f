"""Exhaustive search as the oracle: no method finds anything better."""

import itertools

import pytest

from clusters.cluster import Cluster
from models.latency.library import LatencyLibrary
from models.llm import LlmSpec
from planner.objective import Goal, Objective
from planner.problem import Problem, SearchSpace, Service
from planner.search.exhaustive import Exhaustive, multisets
from planner.simulator.system import Phase
from planner.slo import Slo, SloRule
from planner.workload.workload import Workload
from tests.planner.search.tiny_searches import METHODS, search
from tests.planner.tiny_problems import (
    QUICK,
    context_of,
    mixed_cluster,
    shape,
    tiny_cluster,
    tiny_problem,
)

HEURISTICS = METHODS[:-1]
CLUSTERS = {
    "one node of four": tiny_cluster(1, 4),
    "two nodes of two": tiny_cluster(2, 2),
    "two nodes of two, slow network": tiny_cluster(2, 2, nic_bytes_per_s=1e5),
    "two GPU types": mixed_cluster(),
}


def opt_13b(source: str, goal: Goal, rule: SloRule, ttft_ms: float) -> Problem:
    """OPT-13B on four A100s, short answers so that runs are short."""
    problem = Problem(
        cluster=Cluster.load("a100_1x4"),
        services=(
            Service(
                llm=LlmSpec.load("opt-13b"),
                workload=Workload.poisson(rate_rps=6.0, lengths="512x16"),
                slo=Slo(ttft_ms=ttft_ms, tpot_ms=60.0, rule=rule),
            ),
        ),
        objective=Objective(goal=goal),
        search=SearchSpace(max_pp=2),
    )
    return problem, LatencyLibrary.default().with_sources(source)


def cases():
    """Every goal under both rules, each on two of the four clusters."""
    names = list(CLUSTERS)
    for seed, (goal, rule) in enumerate(itertools.product(Goal, SloRule)):
        for name in (names[seed % 4], names[(seed + seed // 4 + 1) % 4]):
            yield name, goal, rule, seed


@pytest.mark.parametrize(("cluster", "goal", "rule", "seed"), list(cases()))
def test_no_method_beats_it(cluster, goal, rule, seed):
    # Looser limits with the seed, and a rate that takes two or three GPUs.
    slo = Slo(ttft_ms=30.0 + 12.0 * seed, tpot_ms=11.0 + 2.0 * seed, rule=rule)
    problem = tiny_problem(
        goal=goal, cluster=CLUSTERS[cluster], slo=slo, rate_rps=40.0 + 5.0 * seed
    )
    context = context_of(problem, seed=seed)
    best = search("exhaustive", context).candidates[0].rank(problem)
    for name in HEURISTICS:
        found = search(name, context).candidates
        assert found[0].rank(problem) >= best, name


@pytest.mark.parametrize(
    ("source", "goal", "rule"),
    [
        ("published-distserve", Goal.MAX_GOODPUT_PER_GPU, SloRule.EACH),
        ("published-distserve", Goal.MIN_COST, SloRule.JOINT),
        ("roofline", Goal.MAX_GOODPUT_PER_GPU, SloRule.JOINT),
        ("roofline", Goal.MIN_COST, SloRule.EACH),
    ],
)
def test_no_method_beats_it_on_a_real_model(source, goal, rule):
    problem, library = opt_13b(source, goal, rule, ttft_ms=200.0)
    context = context_of(problem, library=library)
    best = search("exhaustive", context).candidates[0].rank(problem)
    for name in HEURISTICS:
        found = search(name, context).candidates
        assert found[0].rank(problem) >= best, name


def test_pruning_changes_nothing(monkeypatch):
    loose = Slo(ttft_ms=1000.0, tpot_ms=100.0)  # so that capacity is what counts
    problem = tiny_problem(goal=Goal.MAX_GOODPUT, cluster=tiny_cluster(1, 3), slo=loose)
    pruned = search("exhaustive", context_of(problem))
    monkeypatch.setattr("planner.search.exhaustive.can_beat", lambda *_: True)
    whole = search("exhaustive", context_of(problem))
    assert len(whole.candidates) > len(pruned.candidates)
    assert whole.candidates[0] == pruned.candidates[0]


def test_everything_is_simulated_on_three_gpus(monkeypatch):
    monkeypatch.setattr("planner.search.exhaustive.can_beat", lambda *_: True)
    problem = tiny_problem(cluster=tiny_cluster(1, 3), is_batching_searched=False)
    outcome = search("exhaustive", context_of(problem))
    # TP1 PP1, TP1 PP2 and TP2 PP1 take 1, 2 and 2 GPUs. Aggregated: 1, 2 or 3 of the
    # first, and each of the others alone or beside one of the first. Split: 1 + 1,
    # 2 + 1 and 1 + 2 of the first, and the first against each of the others both ways.
    kinds = {True: set(), False: set()}
    for found in outcome.candidates:
        deployment = found.deployment
        kinds[deployment.is_disaggregated].add(deployment.describe())
    assert len(kinds[False]) == 3 + 2 * 2
    assert len(kinds[True]) == 3 + 2 * 2
    assert outcome.is_exact


def test_what_it_has_not_looked_at_is_told():
    space = {"is_batching_searched": False, "max_replicas": 1, "tp": (1,)}
    problem = tiny_problem(cluster=tiny_cluster(2, 2), max_pp=1, **space)
    for method, what in (
        (Exhaustive(max_placements=3), "places beyond the first 3"),
        (Exhaustive(max_runs=0), " places beyond 0 runs"),
    ):
        outcome = method.search(context_of(problem))
        assert what in outcome.left_out[0]
        assert not outcome.is_exact
    assert Exhaustive().search(context_of(problem)).is_exact
    mixed = tiny_problem(cluster=mixed_cluster(), max_pp=2, **space)
    left_out = Exhaustive(max_runs=0).search(context_of(mixed)).left_out
    assert left_out[0] == "pipelines of unlike stages"


def test_multisets_are_all_there_and_never_twice():
    one, two = shape(Phase.AGGREGATED), shape(Phase.AGGREGATED, tp=2)
    found = list(multisets([one, two], 4, 4))
    # 1..4 of one; 1 or 2 of two; one of two with 1 or 2 of one.
    assert len(found) == len(set(found)) == 4 + 2 + 2


def test_a_limit_on_replicas_holds_for_each_phase():
    problem = tiny_problem(max_replicas=1)
    for candidate in search("exhaustive", context_of(problem)).candidates:
        for phase in Phase:
            assert len(candidate.deployment.of_phase(phase)) <= 1


def test_large_clusters_are_declined_with_the_reason():
    why_not = Exhaustive().supports(tiny_problem(cluster=tiny_cluster(3)))
    assert why_not == "12 GPUs are too many to try everything (at most 8)"
    assert (
        Exhaustive().supports(tiny_problem(cluster=tiny_cluster(3), max_gpus=8)) is None
    )


@pytest.mark.parametrize("rule", SloRule)
def test_high_affinity_equals_it_for_one_replica_of_each_phase(rule):
    problem, library = opt_13b(
        "published-distserve", Goal.MAX_GOODPUT_PER_GPU, rule, ttft_ms=100.0
    )
    space = SearchSpace(max_pp=2, max_replicas=1)
    problem = Problem(
        cluster=problem.cluster,
        services=problem.services,
        objective=problem.objective,
        search=space,
    )
    context = context_of(problem, library=library, effort=QUICK)
    everything = search("exhaustive", context).candidates
    high = search("distserve-high", context).candidates[0]
    split = next(c for c in everything if c.deployment.is_disaggregated)
    if split.rank(problem) == everything[0].rank(problem):
        assert high.rank(problem) == split.rank(problem)
    else:
        assert high.rank(problem) >= everything[0].rank(problem)
