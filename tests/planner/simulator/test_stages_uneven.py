"""Uneven stages: the slowest sets the pace, and each is as busy as it is slow.

That all times match the plain simulator with stages drawn one by one is in
`test_simulator_reference`.
"""

import numpy as np
import pytest
from hypothesis import given, settings

from planner.simulator.simulate import simulate
from planner.simulator.system import Phase
from tests.planner.simulator.systems import (
    many_requests,
    systems,
    tiny_replica,
    tiny_requests,
    tiny_system,
    tiny_table,
)


def test_prompts_leave_at_the_pace_of_the_slowest_stage():
    """Three prompts, one a batch: 2 ms and then 6 ms each, whichever stage is first."""
    requests = tiny_requests((0.0, 1, 1), (0.0, 1, 1), (0.0, 1, 1))
    for stages, ends, busy in (
        ((2.0, 6.0), [8.0, 14.0, 20.0], [6 / 20, 18 / 20]),
        ((6.0, 2.0), [8.0, 14.0, 20.0], [18 / 20, 6 / 20]),
    ):
        replica = tiny_replica(
            Phase.PREFILL, *(tiny_table(ms) for ms in stages), max_batch_tokens=1
        )
        result = simulate(tiny_system(replica), requests)
        np.testing.assert_allclose(result.first_token_ms, ends)
        (load,) = result.replicas
        assert [s.prefill_busy_frac for s in load.stages] == pytest.approx(busy)
        # The first 2 ms and the last are one stage's alone: 40 stage-ms, 24 of work.
        assert load.bubble_frac == pytest.approx((40 - 24) / 40)


def test_a_token_passes_every_stage():
    """One request: 4 more tokens of 1 + 3 ms each, after 2 + 2 ms for its prompt."""
    stages = (tiny_table(2.0, decode_ms=1.0), tiny_table(2.0, decode_ms=3.0))
    result = simulate(
        tiny_system(tiny_replica(Phase.AGGREGATED, *stages)), tiny_requests((0, 1, 5))
    )
    assert result.finish_ms[0] == pytest.approx(4.0 + 4 * 4.0)


@given(systems(), many_requests())
@settings(max_examples=20, deadline=None)
def test_shares_of_a_replica_are_the_means_of_its_stages(system, requests):
    result = simulate(system, requests)
    for load, served in zip(result.replicas, system.replicas, strict=True):
        assert len(load.stages) == len(served.stages)
        for kind in ("prefill", "decode", "mixed"):
            name = f"{kind}_busy_frac"
            own = [getattr(stage, name) for stage in load.stages]
            assert np.mean(own) == pytest.approx(getattr(load, name), abs=1e-9)
        assert max(map(_busy, load.stages)) <= load.active_frac + 1e-9


def _busy(stage) -> float:
    return stage.prefill_busy_frac + stage.decode_busy_frac + stage.mixed_busy_frac
