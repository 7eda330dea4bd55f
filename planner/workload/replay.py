"""Replaying a recorded trace: another start, another rate, any number of requests."""

import numpy as np

from clusters.fields import InputError
from planner.workload.prefix_blocks import PrefixBlocks
from planner.workload.requests import IntArray, Requests
from planner.workload.streams import Stream, generator_for


def replay(
    trace: Requests,
    num_requests: int,
    *,
    seed: int = 0,
    rate_rps: float | None = None,
    jitter_ms: float = 0.0,
) -> Requests:
    """`num_requests` requests of a trace, read as a ring.

    Parameters
    ----------
    trace, num_requests
        The recorded requests, and how many to draw. Past the end the trace starts
        again, a mean gap later, with new prefix hashes (a repeat is no cache hit).
    seed
        0 starts at the first recorded request, any other seed at a random one.
    rate_rps
        Scales all gaps so that the *whole* trace would have this mean rate; bursts and
        lulls stay. None keeps the recorded times.
    jitter_ms
        Delays every request by a uniform random time below this, for timestamps that
        were rounded down to such a grid. Applied before the scaling.

    Returns
    -------
    Requests
        The first arrives at 0.
    """
    num_recorded = len(trace)
    position = _start(num_recorded, seed=seed) + np.arange(num_requests)
    index = position % num_recorded
    lap_ms = trace.duration_ms * (1 + 1 / max(num_recorded - 1, 1))
    arrival_ms = trace.arrival_ms[index] + (position // num_recorded) * lap_ms
    repetition = np.arange(num_requests) // num_recorded
    if jitter_ms > 0:
        rng = generator_for(Stream.TRACE_JITTER, seed=seed)
        arrival_ms = arrival_ms + jitter_ms * rng.random(num_requests)
        order = np.argsort(arrival_ms, kind="stable")
        arrival_ms, index = arrival_ms[order], index[order]
        repetition = repetition[order]
    arrival_ms = arrival_ms - arrival_ms[0]
    if rate_rps is not None:
        arrival_ms *= _stretch(trace, rate_rps)
    return Requests(
        arrival_ms=arrival_ms,
        input_tokens=trace.input_tokens[index],
        output_tokens=trace.output_tokens[index],
        prefix_blocks=_blocks(trace, index, repetition),
    )


def _stretch(trace: Requests, rate_rps: float) -> float:
    if trace.duration_ms == 0:
        expected = "no rate: all recorded requests arrive at once"
        raise InputError("rate_rps", rate_rps, expected)
    return trace.rate_rps / rate_rps


def _start(num_recorded: int, *, seed: int) -> int:
    if seed == 0:
        return 0
    return int(generator_for(Stream.TRACE_START, seed=seed).integers(num_recorded))


def _blocks(
    trace: Requests, index: IntArray, repetition: IntArray
) -> PrefixBlocks | None:
    """Blocks of the chosen requests; each repetition gets ids of its own."""
    recorded = trace.prefix_blocks
    if recorded is None:
        return None
    return recorded.take(index).renamed(repetition)
