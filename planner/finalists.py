"""Finalists: the best of both kinds, simulated long and on several seeds."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from planner.cells import is_of_cells
from planner.evaluate import Evaluator
from planner.flow_routing import by_queue, may_gain
from planner.goodput import Effort
from planner.max_kv_flow import routed_by_flow
from planner.problem import Problem
from planner.search.contract import Candidate, SearchOutcome
from planner.simulator.system import Routing

NUM_FINALISTS = 3
"""Deployments of each kind that are simulated long and on several seeds."""

MAX_FINALISTS = 6
"""The same where short runs flattered the first, so that the next may be better."""

_FAR_FRAC = 0.1
"""A large deployment that is so much worse than one of the other kind stays second."""


def verify(
    evaluator: Evaluator, outcomes: tuple[SearchOutcome, ...], effort: Effort
) -> tuple[Candidate, ...]:
    """Simulate the best of both kinds long and on several seeds; best first.

    Those of every method, so that several together never end below one of them alone.
    """
    problem = evaluator.planner.problem
    verified: list[Candidate] = []
    for is_disaggregated in (True, False):
        by_method = [
            _different(problem, [outcome], is_disaggregated) for outcome in outcomes
        ]
        together = _different(problem, outcomes, is_disaggregated)
        if together and is_of_cells(len(together[0].deployment.replicas)):
            by_method = [together]  # whole simulations take long
            if _is_far_behind(problem, together[0], verified):
                verified += together[:1]  # as the search has simulated it
                continue
        long_runs: dict[str, Candidate] = {}
        for ranked in by_method:
            for candidate in verify_kind(evaluator, ranked, effort):
                known = long_runs.setdefault(candidate.deployment.describe(), candidate)
                if candidate.rank(problem) < known.rank(problem):
                    long_runs[candidate.deployment.describe()] = candidate
        best_first = sorted(long_runs.values(), key=lambda c: _order(problem, c))
        verified += best_first[:NUM_FINALISTS]
    return preferred_first(problem, verified)


def _is_far_behind(
    problem: Problem, candidate: Candidate, verified: Sequence[Candidate]
) -> bool:
    """Whether no number of seeds would make a candidate the best."""
    best = min(verified, key=lambda c: _order(problem, c), default=None)
    score = None if best is None else best.score(problem)
    own = candidate.score(problem)
    if score is None or own is None or problem.objective.then is not None:
        return False
    return own < score - _FAR_FRAC * abs(score)


def preferred_first(
    problem: Problem, verified: Iterable[Candidate]
) -> tuple[Candidate, ...]:
    """By rank, but for the first.

    It is the best at the second goal of those that give up no more than allowed.
    """
    ranked = sorted(verified, key=lambda c: _order(problem, c))
    objective = problem.objective
    if objective.then is None or not ranked or ranked[0].score(problem) is None:
        return tuple(ranked)
    then, best = objective.then, ranked[0].amounts
    alike = [
        each
        for each in ranked
        if each.score(problem) is not None and objective.is_as_good(each.amounts, best)
    ]
    first = min(alike, key=lambda c: c.amounts.cost(then))
    return (first, *(each for each in ranked if each is not first))


def _different(
    problem: Problem, outcomes: Sequence[SearchOutcome], is_disaggregated: bool
) -> list[Candidate]:
    """Candidates of a kind, best first: of equal replicas the best place."""
    ranked = sorted(
        (c for outcome in outcomes for c in outcome.candidates),
        key=lambda c: _order(problem, c),
    )
    unique: dict[tuple[str, int], Candidate] = {}
    for candidate in ranked:
        deployment = candidate.deployment
        num_slices = len({replica.slice for replica in deployment.replicas})
        if deployment.is_disaggregated is is_disaggregated:
            unique.setdefault((deployment.describe(), num_slices), candidate)
    return list(preferred_first(problem, unique.values()))


def _order(problem: Problem, candidate: Candidate) -> tuple[tuple[float, ...], str]:
    return candidate.rank(problem), candidate.deployment.describe()


def verify_kind(
    evaluator: Evaluator, ranked: Sequence[Candidate], effort: Effort
) -> list[Candidate]:
    """The first few, simulated long.

    Where short runs have flattered the first, more of them: the list goes on while the
    next promises more than any confirmed so far, and where a rate is to be served until
    one is confirmed.
    """
    problem = evaluator.planner.problem
    verified: list[Candidate] = []
    # A large deployment takes long, and differs little from the next.
    is_large = bool(ranked) and is_of_cells(len(ranked[0].deployment.replicas))
    most = 1 if is_large else NUM_FINALISTS
    for candidate in ranked:
        is_confirmed = any(c.score(problem) is not None for c in verified)
        may_be = problem.objective.needs_rate and candidate.score(problem) is not None
        if len(verified) >= most and (is_confirmed or not may_be):
            promises_more = not any(
                v.rank(problem) <= candidate.rank(problem) for v in verified
            )
            if is_large or len(verified) >= MAX_FINALISTS or not promises_more:
                break
        whole = evaluator.goodput(candidate.deployment, effort=effort)
        confirmed = replace(candidate, goodput=whole)
        verified.append(better_routed(evaluator, confirmed, effort))
    return verified


def better_routed(
    evaluator: Evaluator, candidate: Candidate, effort: Effort
) -> Candidate:
    """The better of a candidate routed by the shares of its flow and to the queue.

    Where the problem asks for shares, always the former.
    """
    problem = evaluator.planner.problem
    is_asked = problem.engine.routing is Routing.FLOW_SHARES
    deployment, other = candidate.deployment, None
    if deployment.routing is Routing.FLOW_SHARES:
        other = None if is_asked else by_queue(deployment)
    elif is_asked or may_gain(deployment):
        other = routed_by_flow(evaluator, deployment)
    if other is None:
        return candidate
    floor = 0.0 if is_asked else candidate.goodput.rate_rps
    goodput = evaluator.goodput(other, effort=effort, floor_rps=floor)
    rerouted = replace(candidate, deployment=other, goodput=goodput)
    is_better = rerouted.rank(problem) < candidate.rank(problem)
    return rerouted if is_asked or is_better else candidate
