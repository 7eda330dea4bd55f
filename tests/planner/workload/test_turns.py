"""Turns: sessions whose parts are in order, and stay whole when some are chosen."""

import numpy as np
import pytest

from clusters.fields import InputError
from planner.workload.turns import Turns


def turns_of(*previous: int) -> Turns:
    return Turns(previous=np.array(previous), think_ms=np.zeros(len(previous)))


def test_every_turn_knows_the_request_that_opened_its_session():
    # 0 - 2 - 4, 1 - 3
    turns = turns_of(-1, -1, 0, 1, 2)
    assert turns.num_first == 2
    assert turns.roots().tolist() == [0, 1, 0, 1, 0]


def test_chosen_sessions_are_numbered_anew():
    turns = turns_of(-1, -1, 0, 1, 2).take(np.array([1, 3]))
    assert turns.previous.tolist() == [-1, 0]


def test_a_session_cannot_lose_its_beginning():
    with pytest.raises(InputError, match="first turn"):
        turns_of(-1, -1, 0, 1).take(np.array([0, 3]))


@pytest.mark.parametrize(
    "previous",
    [
        (-1, 0, -1),  # a first turn after a later one
        (-1, 1),  # after itself
        (-1, 2, 0),  # after one that comes later
        (-1, 0, 0),  # two after the same
    ],
)
def test_turns_out_of_order_are_refused(previous):
    with pytest.raises(InputError, match="previous"):
        turns_of(*previous)


def test_think_times_are_not_negative():
    with pytest.raises(InputError, match="think_ms"):
        Turns(previous=np.array([-1]), think_ms=np.array([-1.0]))
