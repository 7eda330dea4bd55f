"""The compiled simulator against the plain one, request by request."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.simulator.build import SimulationOptions
from planner.simulator.outcome import SimulationResult
from planner.simulator.simulate import simulate
from tests.planner.simulator.reference import ReferenceSimulator
from tests.planner.simulator.systems import TIMES, many_requests, systems

EXAMPLES = settings(max_examples=250, deadline=None)


def assert_matches(result: SimulationResult, reference: ReferenceSimulator) -> None:
    for name in ("arrival_ms", *TIMES):
        expected = [getattr(job, name.removesuffix("_ms")) for job in reference.jobs]
        np.testing.assert_allclose(
            getattr(result, name), expected, rtol=1e-9, atol=1e-9, err_msg=name
        )
    rejected = [job.is_rejected for job in reference.jobs]
    np.testing.assert_array_equal(result.is_rejected, rejected)
    assert result.num_preemptions == reference.num_preemptions


@given(systems(), many_requests())
@EXAMPLES
def test_every_time_of_every_request_matches_the_reference(system, requests):
    reference = ReferenceSimulator(system, requests)
    reference.run()
    assert_matches(simulate(system, requests), reference)


@given(systems(is_capped=True), many_requests())
@EXAMPLES
def test_capped_decode_steps_match_the_reference(system, requests):
    reference = ReferenceSimulator(system, requests)
    reference.run()
    assert_matches(simulate(system, requests), reference)


@given(systems(), many_requests(), st.integers(1, 6))
@settings(max_examples=100, deadline=None)
def test_a_closed_loop_matches_the_reference(system, requests, clients):
    reference = ReferenceSimulator(system, requests, clients)
    reference.run()
    options = SimulationOptions(concurrency=clients)
    assert_matches(simulate(system, requests, options=options), reference)
