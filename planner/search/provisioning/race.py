"""The race of programmes: the one with the best bound goes on, until it is through.

Bounds only tighten, so the first that is through and still has the best bound is the
best of all, and the others need not go on (best-first search).
"""

from collections.abc import Sequence

from planner.search.contract import SearchContext
from planner.search.provisioning.pricing import PricedProgramme
from planner.simulator.system import Phase


def first_answered(
    context: SearchContext,
    programmes: Sequence[PricedProgramme],
    kind: tuple[Phase, ...] | None = None,
) -> PricedProgramme | None:
    """The programme (of a kind) with the best bound, solved at promised rates.

    None when no programme has an answer, or the search is stopped.
    """
    alike = [each for each in programmes if kind in (None, tuple(each.sizes))]
    while (first := _most_promising(context, alike)) and first.answer is None:
        first.promise_once()
    return first


def first_settled(
    context: SearchContext, programmes: Sequence[PricedProgramme]
) -> PricedProgramme | None:
    """The same, solved at long rates."""
    while (first := _most_promising(context, programmes)) and not first.is_settled:
        first.settle_once()
    return first


def _most_promising(
    context: SearchContext, programmes: Sequence[PricedProgramme]
) -> PricedProgramme | None:
    """The one with the best bound; None when none may have an answer, or stopped."""
    within = [each for each in programmes if not each.is_out_of_reach]
    if not within or context.should_stop():
        return None
    return min(within, key=lambda each: each.cost)
