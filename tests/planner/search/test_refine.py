"""Refinement: promises, neighbours, and counting each deployment once."""

from planner.objective import Goal
from planner.search.contract import Ledger
from planner.search.refine import Simulated, climb, refine, simulate_promising
from planner.simulator.system import Phase
from tests.planner.tiny_problems import context_of, shape, tiny_problem

PREFILL, DECODE = shape(Phase.PREFILL), shape(Phase.DECODE)


def simulated_on(problem):
    context = context_of(problem)
    planner = context.evaluator.planner
    return Simulated("test", context, Ledger(), planner.deploy)


def mix(prefills, decodes):
    return ((PREFILL, prefills), (DECODE, decodes))


def test_each_deployment_is_simulated_once():
    simulated = simulated_on(tiny_problem())
    first = simulated.try_counts(mix(1, 1))
    assert simulated.try_counts(mix(1, 1)) is first
    assert simulated.ledger.evaluated == 1


def test_what_does_not_fit_is_counted_once():
    simulated = simulated_on(tiny_problem())
    assert simulated.try_counts(mix(4, 1)) is None
    assert simulated.try_counts(mix(4, 1)) is None
    assert dict(simulated.ledger.rejected) == {"does not fit the nodes": 1}


def test_misfits_do_not_use_up_the_finalists():
    simulated = simulated_on(tiny_problem())
    promised = [mix(4, 1), mix(1, 1), mix(2, 1), mix(1, 2)]
    simulate_promising(simulated, promised, num_finalists=2)
    assert simulated.ledger.evaluated == 2


def test_the_climb_reaches_a_neighbour_that_is_better():
    # 20 ms of prefill against 10 steps shared by many: more prefill is better.
    simulated = simulated_on(tiny_problem(goal=Goal.MAX_GOODPUT))
    start = simulated.try_counts(mix(1, 1))
    climb(simulated)
    assert simulated.best.goodput.rate_rps > 1.5 * start.goodput.rate_rps
    assert simulated.best.deployment.num_gpus > 2


def test_the_climb_keeps_to_the_limits():
    simulated = simulated_on(tiny_problem(goal=Goal.MAX_GOODPUT, max_gpus=3))
    simulated.try_counts(mix(1, 1))
    climb(simulated)
    assert max(c.deployment.num_gpus for c in simulated.ranked) <= 3


def test_a_promise_the_climb_came_across_is_not_rejected_too():
    simulated = simulated_on(tiny_problem(goal=Goal.MAX_GOODPUT))
    promised = [mix(1, 1), mix(2, 1), mix(1, 3)]
    refine(simulated, promised, num_finalists=1)
    assert ((PREFILL, 2), (DECODE, 1)) in simulated.known
    left = sum(counts not in simulated.known for counts in promised)
    passed_over = simulated.ledger.rejected["promises less than those simulated"]
    assert passed_over == left < 2


def test_the_climb_adds_a_shape_on_gpus_that_the_best_leaves_free():
    # Four GPUs: one of each phase leaves two, which only the extra shape may take.
    wide = shape(Phase.PREFILL, tp=2)
    simulated = simulated_on(tiny_problem(goal=Goal.MAX_GOODPUT, max_replicas=2))
    simulated.try_counts(mix(1, 1))
    climb(simulated, extras=[wide], max_rounds=1)
    mixed = ((PREFILL, 1), (DECODE, 1), (wide, 1))
    assert simulated.known[mixed] is not None


def test_an_extra_shape_counts_for_the_limit_of_its_phase():
    wide = shape(Phase.PREFILL, tp=2)
    simulated = simulated_on(tiny_problem(goal=Goal.MAX_GOODPUT, max_replicas=1))
    simulated.try_counts(mix(1, 1))
    climb(simulated, extras=[wide])
    assert list(simulated.known) == [mix(1, 1)]
