"""Named random streams: one seed, an independent generator for every purpose.

Because lengths and arrivals come from different streams, changing one of them (more
requests, another arrival process) leaves the other as it was for the same seed.
"""

from enum import IntEnum

import numpy as np

from clusters.fields import InputError


class Stream(IntEnum):
    """What a generator is for. A number is part of every result: never reuse one."""

    LENGTHS = 0
    ARRIVALS = 1
    TRACE_START = 2
    TRACE_JITTER = 3
    SESSIONS = 4


def generator_for(stream: Stream, *, seed: int) -> np.random.Generator:
    """A generator for one purpose, independent of those of all other purposes.

    Raises
    ------
    InputError
        If `seed` is negative.
    """
    if seed < 0:
        raise InputError("seed", seed, "a whole number >= 0")
    sequence = np.random.SeedSequence(entropy=seed, spawn_key=(int(stream),))
    return np.random.default_rng(sequence)
