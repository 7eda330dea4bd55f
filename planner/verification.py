"""Verification: the best of a search, simulated long and on several seeds."""

from collections.abc import Sequence
from dataclasses import replace

from planner.cells import is_large as is_of_cells
from planner.evaluate import Evaluator
from planner.goodput import Effort
from planner.problem import Problem
from planner.search.contract import Candidate, SearchOutcome

NUM_FINALISTS = 3
"""Deployments of each kind that are simulated long and on several seeds."""


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
        long_runs: dict[str, Candidate] = {}
        for ranked in by_method:
            for candidate in verify_kind(evaluator, ranked, effort):
                known = long_runs.setdefault(candidate.deployment.describe(), candidate)
                if candidate.rank(problem) < known.rank(problem):
                    long_runs[candidate.deployment.describe()] = candidate
        best_first = sorted(long_runs.values(), key=lambda c: _order(problem, c))
        verified += best_first[:NUM_FINALISTS]
    return tuple(sorted(verified, key=lambda c: _order(problem, c)))


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
    return list(unique.values())


def _order(problem: Problem, candidate: Candidate) -> tuple[tuple[float, ...], str]:
    return candidate.rank(problem), candidate.deployment.describe()


def verify_kind(
    evaluator: Evaluator, ranked: Sequence[Candidate], effort: Effort
) -> list[Candidate]:
    """The first few, simulated long.

    Where a rate is to be served, more of them: a short run may have flattered the
    smallest deployments, so the list goes on until one is confirmed.
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
            break
        whole = evaluator.goodput(candidate.deployment, effort=effort)
        verified.append(replace(candidate, goodput=whole))
    return verified
