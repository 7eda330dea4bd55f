"""Layouts: what follows what, and what is missing."""

import pytest

from clusters.fields import InputError
from planner.pipelines.layout import Layout, Segment
from tests.planner.pipelines.tiny_fleets import tiny_fleet

FLEET = tiny_fleet([("a", (9.0, 5.0, 3.0)), ("a", (9.0, 5.0, 3.0)), ("b", (8.0,))], 4)


def segment(first: int, end: int, machine: int = 0) -> Segment:
    return Segment(first=first, end=end, machine=machine)


@pytest.mark.parametrize(
    ("other", "follows"),
    [((2, 4), True), ((1, 4), True), ((0, 2), False), ((3, 4), False), ((0, 3), True)],
)
def test_a_token_goes_on_where_the_layers_do(other, follows):
    # Behind layers 0-1 comes layer 2, at the begin or in the middle of a segment.
    assert segment(0, 2).feeds(segment(*other, machine=1)) is follows


@pytest.mark.parametrize(
    ("spans", "reason"),
    [
        ({0: (0, 3), 1: (3, 4)}, None),
        ({0: (0, 3), 1: (1, 4)}, None),
        ({0: (0, 2), 1: (3, 4)}, "nobody holds layer 2"),
        ({0: (0, 3), 2: (2, 4)}, "b holds at most 1 layers"),
        ({0: (0, 3), 1: (3, 5)}, "the model has 4 layers"),
        ({0: (0, 3), 7: (3, 4)}, "there is no machine 7"),
    ],
)
def test_a_layout_says_why_it_cannot_run(spans, reason):
    assert Layout.from_spans(spans).why_not(FLEET) == reason


def test_a_machine_holds_one_segment():
    with pytest.raises(InputError, match="one segment a machine"):
        Layout.of([segment(0, 1), segment(1, 2)])


def test_machines_with_the_same_layers_are_described_together():
    layout = Layout.from_spans({0: (0, 3), 1: (0, 3), 2: (3, 4)})
    assert layout.describe(FLEET) == "0-3: 2 x a | 3-4: b"
