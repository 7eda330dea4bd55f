"""Moves: whatever is drawn, the result can run."""

import numpy as np

from planner.pipelines.layout import Layout
from planner.pipelines.moves import neighbour
from tests.planner.pipelines.tiny_fleets import tiny_fleet

FLEET = tiny_fleet([("a", (9.0, 5.0, 3.0, 2.0))] * 3 + [("b", (8.0, 4.0, 2.0))] * 2, 5)
START = Layout.from_spans({0: (0, 2), 1: (0, 2), 2: (2, 5), 3: (2, 4), 4: (3, 5)})


def neighbours(seed: int, num: int = 300) -> list[Layout]:
    rng = np.random.default_rng(seed)
    found = [neighbour(FLEET, START, rng) for _ in range(num)]
    return [layout for layout in found if layout is not None]


def test_neighbours_can_run_and_differ():
    found = neighbours(0)
    assert len(found) > 50
    assert all(layout.why_not(FLEET) is None for layout in found)
    assert START not in found


def test_a_seed_gives_the_same_moves():
    assert neighbours(1, 40) == neighbours(1, 40)
    assert neighbours(1, 40) != neighbours(2, 40)


def test_boundaries_machines_and_sizes_move():
    spans = [layout.spans for layout in neighbours(0)]
    assert any(s[0] == s[1] == (0, 1) for s in spans)  # the boundary at 2 went to 1
    assert any(s[0] == (2, 5) for s in spans)  # a machine joined or changed places
    assert any(s[3] == (3, 4) for s in spans)  # one machine shrank


def test_whole_stages_change_places():
    fleet = tiny_fleet([("a", (9.0, 5.0))] * 2, 3)
    rng = np.random.default_rng(0)
    start = Layout.from_spans({0: (0, 1), 1: (1, 3)})
    found = {neighbour(fleet, start, rng) for _ in range(60)}
    # Two layers first, the same machine still holding them.
    assert Layout.from_spans({1: (0, 2), 0: (2, 3)}) in found
