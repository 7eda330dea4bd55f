"""Random streams are independent by purpose and repeatable by seed."""

import pytest

from clusters.fields import InputError
from planner.workload.streams import Stream, generator_for


def test_equal_seeds_give_equal_streams() -> None:
    first = generator_for(Stream.LENGTHS, seed=3).random(4)
    again = generator_for(Stream.LENGTHS, seed=3).random(4)
    assert first.tolist() == again.tolist()


def test_streams_of_one_seed_differ() -> None:
    draws = [generator_for(stream, seed=0).random() for stream in Stream]
    assert len(set(draws)) == len(Stream)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(InputError, match="seed = -1: expected a whole number >= 0"):
        generator_for(Stream.LENGTHS, seed=-1)
