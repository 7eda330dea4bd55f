"""Running search methods on small problems, and what must hold of what they find."""

from planner.check import check_deployment
from planner.cost import usd_per_hour
from planner.search.contract import SearchContext, SearchOutcome
from planner.search.registry import methods_of

METHODS = (
    "aggregated",
    "distserve-high",
    "distserve-low",
    "provisioning",
    "hexgen2",
    "local-search",
    "per-type",
    "exhaustive",
)


def search(name: str, context: SearchContext) -> SearchOutcome:
    """Run one method and check what holds of every outcome."""
    (method,) = methods_of(name)
    assert method.supports(context.problem) is None
    outcome = method.search(context)
    check_outcome(context, outcome)
    return outcome


def check_outcome(context: SearchContext, outcome: SearchOutcome) -> None:
    problem, ledger = context.problem, outcome.ledger
    assert ledger.enumerated == ledger.evaluated + sum(ledger.rejected.values())
    assert all(number > 0 for number in ledger.rejected.values())
    # Whole deployments, beside the shapes that were rated alone.
    assert len(outcome.candidates) <= ledger.evaluated
    deployments = [candidate.deployment for candidate in outcome.candidates]
    assert len(set(deployments)) == len(deployments)
    ranks = [candidate.rank(problem) for candidate in outcome.candidates]
    assert ranks == sorted(ranks)
    for candidate in outcome.candidates:
        assert candidate.method == outcome.method
        check_deployment(problem, candidate.deployment)
        price = usd_per_hour(problem.cluster, candidate.deployment)
        assert candidate.usd_per_hour == price
        assert candidate.goodput == context.evaluator.goodput(candidate.deployment)
