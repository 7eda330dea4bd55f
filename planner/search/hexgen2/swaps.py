"""Swaps: groupings made better step by step, guided by the flow or at random.

Reference
    Jiang et al., "HexGen-2", ICLR 2025, arXiv 2502.07903: max-flow-guided edge swap.

Idea
    Only what the minimum cut crosses limits the flow, and what has capacity to spare
    can give. So the steps tried are those that take from groups with slack (or from
    GPUs that nobody uses) and give to the phase in the cut; where links are in the
    cut, those that bring the two phases together.

Steps
    1. The phases in the cut; groups of the other phase, the one with most slack first.
    2. Steps between the two, in that order; then between groups of one phase.
    3. The first that ranks better is taken, and back to 1; without one, the end.

Differences from the paper
    - whole groups change phase, split and merge too, and groups may stay idle (goals
      other than the highest rate want that)
    - `at_random` tries any step of any groups, to compare with

Assumes   a grouping that serves something, or could after a change
Cost      up to O(K^2) flows a step for K groups
Guarantee heuristic; never worse than its start
"""

from collections.abc import Callable, Iterator

import numpy as np

from planner.search.hexgen2.grouping import Grouping, Judge, Judged
from planner.search.hexgen2.moves import Neighbours, other_phase
from planner.simulator.system import Phase

_MAX_STEPS = 100
_PATIENCE = 300
"""Random steps in a row without a gain before a start is given up."""

ShouldStop = Callable[[], bool]


def guided(
    judge: Judge,
    moves: Neighbours,
    start: Judged,
    should_stop: ShouldStop,
    *,
    max_tried: int = 400,
) -> Judged:
    """The best that steps guided by the flow lead to from `start`.

    At most `max_tried` neighbours are looked at, over all steps.
    """
    best, num_tried = start, 0
    for _ in range(_MAX_STEPS):
        better = None
        for neighbour in proposals(moves, best):
            if num_tried == max_tried or should_stop():
                return best
            num_tried += 1
            judged = judge.judge(neighbour, better_than=best)
            if judged is not None and judged.rank < best.rank:
                better = judged
                break
        if better is None:
            return best
        best = better
    return best


def proposals(moves: Neighbours, judged: Judged) -> Iterator[Grouping]:
    """Neighbours in the order in which the flow suggests them, each once."""
    seen = {judged.grouping}
    for neighbour in _in_order(moves, judged):
        if neighbour not in seen:
            seen.add(neighbour)
            yield neighbour


def _in_order(moves: Neighbours, judged: Judged) -> Iterator[Grouping]:
    grouping = judged.grouping
    # 1. Who binds, and who can give.
    short = _short_phase(judged)
    rich = other_phase(short)
    takers = judged.of(short)
    givers = sorted(judged.of(rich), key=lambda i: (-judged.slack_rps(i), i))
    idle = [i for i, g in enumerate(grouping) if judged.strategies[i] is None]
    # 2. Idle GPUs first: they cost nothing.
    for index in idle:
        yield from moves.phases(grouping, index)
        for taker in (*takers, *givers):
            yield from moves.merge(grouping, index, taker)
    for index in (*givers, *takers):
        unused = judged.unused(index)
        if unused:
            yield from moves.split(grouping, index, unused)
    if judged.flow.cut_links:
        yield from _pairs_across(moves, grouping, takers, givers)
    for giver in givers:
        yield from moves.phases(grouping, giver)
        yield from moves.split(grouping, giver)
        for taker in takers:
            yield from moves.give(grouping, giver, taker)
    yield from _pairs_across(moves, grouping, takers, givers)
    # Then within a phase: larger groups, smaller ones, nearer GPUs.
    for members in (takers, givers):
        for a in members:
            for b in members:
                if a < b:
                    yield from moves.merge(grouping, a, b)
                if a != b:
                    yield from moves.give(grouping, a, b)
                    yield from moves.swap(grouping, a, b)
    for index in takers:
        yield from moves.split(grouping, index)
        yield from moves.phases(grouping, index)
        for giver in givers:
            yield from moves.give(grouping, index, giver)
            yield from moves.merge(grouping, index, giver)


def _pairs_across(
    moves: Neighbours, grouping: Grouping, takers: list[int], givers: list[int]
) -> Iterator[Grouping]:
    for giver in givers:
        for taker in takers:
            yield from moves.exchange(grouping, giver, taker)
            yield from moves.swap(grouping, giver, taker)


def _short_phase(judged: Judged) -> Phase:
    """The phase with the larger part of its capacity in the cut."""
    flow = judged.flow
    shares = {
        Phase.PREFILL: len(flow.cut_prefills) / max(1, len(flow.prefilled_rps)),
        Phase.DECODE: len(flow.cut_decodes) / max(1, len(flow.decoded_rps)),
    }
    if shares[Phase.PREFILL] >= shares[Phase.DECODE]:
        return Phase.PREFILL
    return Phase.DECODE


def at_random(
    judge: Judge,
    moves: Neighbours,
    start: Judged,
    should_stop: ShouldStop,
    rng: np.random.Generator,
) -> Judged:
    """The best that random steps lead to from `start`: any kind, any groups."""
    best, failures = start, 0
    while failures < _PATIENCE and not should_stop():
        failures += 1
        neighbour = _random_step(moves, best, rng)
        if neighbour is None:
            continue
        judged = judge.judge(neighbour, better_than=best)
        if judged is not None and judged.rank < best.rank:
            best, failures = judged, 0
    return best


def _random_step(
    moves: Neighbours, judged: Judged, rng: np.random.Generator
) -> Grouping | None:
    grouping = judged.grouping
    a, b = (int(i) for i in rng.integers(len(grouping), size=2))
    mine, theirs = (int(rng.choice(grouping[i].gpus)) for i in (a, b))
    kinds = [
        lambda: moves.phases(grouping, a),
        lambda: moves.split(grouping, a, judged.unused(a)),
    ]
    if a != b:
        kinds += [
            lambda: moves.exchange(grouping, a, b),
            lambda: moves.give(grouping, a, b),
            lambda: moves.swap_gpus(grouping, (a, mine), (b, theirs)),
            lambda: moves.merge(grouping, a, b),
        ]
    found = kinds[int(rng.integers(len(kinds)))]()
    return found[int(rng.integers(len(found)))] if found else None
