"""The compiled simulator against the plain one, request by request."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.simulator.build import SimulationOptions
from planner.simulator.outcome import SimulationResult
from planner.simulator.simulate import simulate
from planner.simulator.system import Batching, Routing, ServingSystem
from tests.planner.simulator.reference import ReferenceSimulator
from tests.planner.simulator.systems import (
    CHUNKED,
    TIMES,
    any_system,
    many_requests,
    systems,
)

EXAMPLES = settings(max_examples=100, deadline=None)


def assert_matches(result: SimulationResult, reference: ReferenceSimulator) -> None:
    for name in ("arrival_ms", *TIMES):
        expected = [getattr(job, name.removesuffix("_ms")) for job in reference.jobs]
        np.testing.assert_allclose(
            getattr(result, name), expected, rtol=1e-9, atol=1e-9, err_msg=name
        )
    rejected = [job.is_rejected for job in reference.jobs]
    np.testing.assert_array_equal(result.is_rejected, rejected)
    assert result.num_preemptions == reference.num_preemptions


def matched(system, requests) -> tuple[SimulationResult, ReferenceSimulator]:
    """Both simulators' runs, which agree."""
    reference = ReferenceSimulator(system, requests)
    reference.run()
    result = simulate(system, requests)
    assert_matches(result, reference)
    return result, reference


def between_phases(routing: Routing) -> st.SearchStrategy[ServingSystem]:
    """Prefill and decode replicas of any policies under one routing."""
    return systems(
        policies=tuple(Batching), shapes=("disaggregated",), routings=(routing,)
    )


@given(systems(), many_requests())
@EXAMPLES
def test_every_time_of_every_request_matches_the_reference(system, requests):
    matched(system, requests)


@given(systems(policies=CHUNKED), many_requests())
@settings(max_examples=200, deadline=None)
def test_chunked_prefill_matches_the_reference(system, requests):
    result, reference = matched(system, requests)
    for stats, replica in zip(result.replicas, reference.replicas, strict=True):
        assert stats.num_mixed_steps == replica.num_mixed_steps
        assert stats.num_mixed_tokens == replica.num_mixed_tokens


@given(systems(policies=(Batching.REQUEST_LEVEL, Batching.ORCA)), many_requests())
@EXAMPLES
def test_batches_with_reserved_outputs_match_the_reference(system, requests):
    matched(system, requests)


@given(any_system(), many_requests(), st.booleans())
@EXAMPLES
def test_every_gap_between_tokens_is_counted(system, requests, is_fast_forward):
    """The histogram has as many gaps as there are, each at its length (0.5 %)."""
    reference = ReferenceSimulator(system, requests)
    reference.run()
    gaps = np.concatenate([np.diff(job.token_times) for job in reference.jobs])
    options = SimulationOptions(is_itl_counted=True, is_fast_forward=is_fast_forward)
    counted = simulate(system, requests, options=options).token_gaps
    assert counted is not None
    assert counted.num_gaps == len(gaps)
    if len(gaps) == 0:
        return
    lengths = np.repeat(counted.edges_ms()[1:], counted.counts)  # rising
    np.testing.assert_allclose(lengths, np.maximum(np.sort(gaps), 1e-3), rtol=0.0051)


@given(systems(is_capped=True), many_requests())
@EXAMPLES
def test_capped_decode_steps_match_the_reference(system, requests):
    matched(system, requests)


@given(any_system(), many_requests(), st.integers(1, 6))
@settings(max_examples=100, deadline=None)
def test_a_closed_loop_matches_the_reference(system, requests, clients):
    reference = ReferenceSimulator(system, requests, clients)
    reference.run()
    options = SimulationOptions(concurrency=clients)
    assert_matches(simulate(system, requests, options=options), reference)
