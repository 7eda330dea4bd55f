"""What is served fits the time, and policies are named as the simulator names them."""

import pytest

pytest.importorskip("torch", reason="the engine needs torch")

from clusters.fields import InputError
from planner.simulator.system import Batching
from profiler.engine import EngineLimits
from profiler.serving import ServingPolicy
from profiler.validation_plan import ValidationPlan, policies_of


def test_policies_are_those_of_the_simulator() -> None:
    assert {str(policy) for policy in ServingPolicy} <= {str(b) for b in Batching}
    assert policies_of("chunked,prefill_first,chunked") == (
        ServingPolicy.CHUNKED,
        ServingPolicy.PREFILL_FIRST,
    )
    with pytest.raises(InputError, match="nearest is 'chunked'"):
        policies_of("chunky")


def test_as_many_requests_as_arrive_in_three_quarters_of_the_time() -> None:
    plan = ValidationPlan(limits=EngineLimits(), lengths="chat", max_s=40.0)
    assert plan.num_requests_at(10.0) == 300
    assert plan.num_requests_at(0.1) == 20
