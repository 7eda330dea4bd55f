"""Jumping over unchanged decode steps changes no time of any request."""

from itertools import accumulate

from hypothesis import given, settings
from hypothesis import strategies as st

from planner.simulator.simulate import simulate
from planner.simulator.system import KvRoute, Phase
from tests.planner.simulator.systems import (
    any_system,
    assert_same_times,
    eighths,
    many_requests,
    step_by_step,
    step_tables,
    tiny_replica,
    tiny_requests,
    tiny_system,
    tiny_table,
)


@given(any_system(), many_requests())
@settings(max_examples=150, deadline=None)
def test_fast_forward_equals_step_by_step(system, requests):
    assert_same_times(simulate(system, requests), step_by_step(system, requests))


@given(
    table=step_tables(),
    block_tokens=st.sampled_from([1, 2, 4]),
    spare_tokens=st.integers(0, 40),
    latency_ms=eighths(160),
    rows=st.lists(
        st.tuples(eighths(200), st.integers(1, 40), st.integers(1, 40)),
        min_size=2,
        max_size=20,
    ),
)
@settings(max_examples=150, deadline=None)
def test_pulls_in_the_middle_of_a_run_with_little_kv_are_exact(
    table, block_tokens, spare_tokens, latency_ms, rows
):
    """Blocks are few, and go to pulls long before these join the batch."""
    prefill = tiny_replica(Phase.PREFILL, tiny_table())
    decode = tiny_replica(
        Phase.DECODE,
        table,
        kv_capacity_tokens=80 + spare_tokens,
        kv_block_tokens=block_tokens,
    )
    requests = tiny_requests(
        *(
            (at, i, o)
            for at, (_, i, o) in zip(
                accumulate(row[0] for row in rows), rows, strict=True
            )
        )
    )
    route = KvRoute(source=0, target=1, latency_ms=latency_ms, ms_per_byte=0.0)
    system = tiny_system(prefill, decode, routes=(route,))
    assert_same_times(simulate(system, requests), step_by_step(system, requests))
