"""Moves: small random changes of a layout, for local search."""

from itertools import pairwise

import numpy as np

from planner.pipelines.fleet import Fleet
from planner.pipelines.layout import Layout

Spans = dict[int, tuple[int, int]]


def neighbour(fleet: Fleet, layout: Layout, rng: np.random.Generator) -> Layout | None:
    """A layout one random move away; None when the move leads nowhere.

    The moves: shift a boundary between stages, let a machine join the layers of
    another, let two machines or two stages change places, stretch or shrink one
    machine's layers.
    """
    spans = dict(layout.spans)
    if not spans:
        return None
    move = _MOVES[rng.integers(len(_MOVES))]
    move(fleet, spans, rng)
    changed = Layout.from_spans(spans)
    if changed == layout or changed.why_not(fleet) is not None:
        return None
    return changed


def _shift(fleet: Fleet, spans: Spans, rng: np.random.Generator) -> None:
    """Move every end and begin at one layer by up to three layers."""
    inner = sorted({span[0] for span in spans.values()} - {0})
    if not inner:
        return
    at = int(rng.choice(inner))
    to = at + int(rng.choice([-3, -2, -1, 1, 2, 3]))
    for machine, (first, end) in spans.items():
        begin, stop = to if first == at else first, to if end == at else end
        if not 0 <= begin < stop <= fleet.num_layers:
            return
        spans[machine] = (begin, stop)


def _join(fleet: Fleet, spans: Spans, rng: np.random.Generator) -> None:
    """Give a machine, idle or not, the layers of another."""
    machine = int(rng.integers(fleet.num_machines))
    spans[machine] = spans[int(rng.choice(sorted(spans)))]


def _swap(fleet: Fleet, spans: Spans, rng: np.random.Generator) -> None:
    """Exchange the layers of two machines in use."""
    if len(spans) < 2:
        return
    one, other = (int(m) for m in rng.choice(sorted(spans), size=2, replace=False))
    spans[one], spans[other] = spans[other], spans[one]


def _stretch(fleet: Fleet, spans: Spans, rng: np.random.Generator) -> None:
    """Move one end of one machine's layers by a layer."""
    machine = int(rng.choice(sorted(spans)))
    first, end = spans[machine]
    by = int(rng.choice([-1, 1]))
    first, end = (first + by, end) if rng.integers(2) else (first, end + by)
    if 0 <= first < end <= fleet.num_layers:
        spans[machine] = (first, end)


def _reorder(fleet: Fleet, spans: Spans, rng: np.random.Generator) -> None:
    """Exchange two whole stages, where machines share all of their layers or none."""
    stages = sorted(set(spans.values()))
    is_staged = all(a[1] == b[0] for a, b in pairwise(stages))
    if len(stages) < 2 or not is_staged:
        return
    one, other = sorted(rng.choice(len(stages), size=2, replace=False).tolist())
    order = list(range(len(stages)))
    order[one], order[other] = order[other], order[one]
    moved, first = {}, 0
    for index in order:
        held = stages[index][1] - stages[index][0]
        moved[stages[index]] = (first, first + held)
        first += held
    for machine, span in spans.items():
        spans[machine] = moved[span]


_MOVES = (_shift, _join, _swap, _stretch, _reorder)
