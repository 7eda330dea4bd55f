"""What each policy promises, policy by policy (Hypothesis).

`test_simulator_invariants` draws systems of any policies side by side; here every
policy of the literature has draws of its own, so that none goes without.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.simulator.build import SimulationOptions, build_world
from planner.simulator.handle import WorldHandle
from planner.simulator.kernel import run
from planner.simulator.outcome import SimulationResult
from planner.simulator.simulate import simulate
from planner.simulator.system import Batching, Phase, Routing, ServingSystem
from planner.workload.requests import Requests
from tests.planner.simulator.disturbances import disturbed, down_intervals, serve
from tests.planner.simulator.systems import TIMES, many_requests, systems
from tests.planner.simulator.test_outside_caches import disturbed_caches
from tests.planner.simulator.test_prefix_cache import (
    cached_systems,
    prompts_with_prefixes,
)
from tests.planner.simulator.test_simulator_invariants import assert_in_order, union_ms

Drawn = st.SearchStrategy[ServingSystem]
NUM_STAGES = 3


def of_policy(policy: Batching) -> Drawn:
    """Replicas of one policy, of both phases or of one."""
    is_whole = policy is Batching.REQUEST_LEVEL
    shapes = ("both",) if is_whole else ("both", "disaggregated", "prefill", "decode")
    plain = (Routing.ROUND_ROBIN, Routing.SHORTEST_QUEUE, Routing.PENDING_TOKENS)
    return systems(policies=(policy,), shapes=shapes, routings=plain)


def of_routing(*routings: Routing) -> Drawn:
    """Prefill and decode replicas under one way to share requests out."""
    return systems(
        policies=tuple(Batching), shapes=("disaggregated",), routings=routings
    )


def pipelined(system: ServingSystem) -> ServingSystem:
    """The same with three stages a replica."""
    return replace(
        system,
        replicas=tuple(
            replace(r, stages=(r.stages * NUM_STAGES)[:NUM_STAGES])
            for r in system.replicas
        ),
    )


SYSTEMS: dict[str, Drawn] = {
    **{str(policy): of_policy(policy) for policy in Batching},
    "capped decode steps": systems(is_capped=True),
    "chunked pipeline": of_policy(Batching.CHUNKED).map(pipelined),
    "Orca's pipeline": of_policy(Batching.ORCA).map(pipelined),
    "disaggregated": of_routing(Routing.ROUND_ROBIN, Routing.SHORTEST_QUEUE),
    "Splitwise's pools": of_routing(Routing.SPLITWISE),
    "TetriInfer's dispatch": of_routing(Routing.TETRIINFER),
    "planned shares": of_routing(Routing.FLOW_SHARES),
    "Mooncake's caches and early rejection": cached_systems(),
}
EVERY = pytest.mark.parametrize("name", SYSTEMS)


def requests_for(name: str) -> st.SearchStrategy[Requests]:
    """Prompts that share beginnings where there are caches."""
    return prompts_with_prefixes() if "caches" in name else many_requests()


@EVERY
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_requests_blocks_and_places_are_conserved(name, data):
    """Everyone ends or is refused, and nothing stays held, promised or under way."""
    system, requests = data.draw(SYSTEMS[name]), data.draw(requests_for(name))
    world = build_world(system, requests, SimulationOptions())
    assert run(WorldHandle(world))
    clock = world.clock[0]
    assert clock["num_done"] + clock["num_rejected"] == len(requests)
    if system.early_rejection is None:
        assert clock["num_rejected"] == 0
    for rep in world.replica:
        assert rep["free_blocks"] == rep["capacity_blocks"]
        assert 0 <= rep["kv_peak_blocks"] <= rep["capacity_blocks"]
        for book in ("num_running", "num_joining", "num_flying", "num_partial"):
            assert rep[book] == 0, book
        assert rep["work_tokens"] == rep["promised_tokens"] == 0


@EVERY
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_causes_come_before_effects_and_runs_are_repeated_exactly(name, data):
    system, requests = data.draw(SYSTEMS[name]), data.draw(requests_for(name))
    one, two = simulate(system, requests), simulate(system, requests)
    assert_in_order(one.arrival_ms, one.prefill_start_ms, one.first_token_ms)
    assert_in_order(one.first_token_ms, one.decode_ready_ms, one.finish_ms)
    assert_in_order(one.prefill_start_ms, one.transfer_start_ms, one.decode_ready_ms)
    for each in (*TIMES, "prefill_replica", "decode_replica", "is_rejected"):
        np.testing.assert_array_equal(getattr(one, each), getattr(two, each))
    assert one.replicas == two.replicas


def assert_never_idle(system: ServingSystem, result: SimulationResult) -> None:
    """Some stage works just while somebody is there."""
    for index, stats in enumerate(result.replicas):
        mine = result.prefill_replica == index
        present_ms = union_ms(result.arrival_ms[mine], result.finish_ms[mine])
        assert stats.active_frac * result.end_ms == pytest.approx(present_ms)


@pytest.mark.parametrize("num_stages", [1, NUM_STAGES])
@pytest.mark.parametrize("policy", list(Batching))
@given(data=st.data())
@settings(max_examples=5, deadline=None)
def test_a_replica_of_any_policy_works_while_somebody_is_there(
    policy, num_stages, data
):
    """Work conservation, which all policies promise where one replica does it all."""
    system = data.draw(systems(policies=(policy,), shapes=("both",)))
    if num_stages > 1:
        system = pipelined(system)
    result = simulate(system, data.draw(many_requests()))
    assert_never_idle(system, result)


EVENTFUL: dict[str, st.SearchStrategy] = {
    **{str(policy): disturbed(policies=(policy,)) for policy in Batching},
    "capped decode steps": disturbed(is_capped=True),
    "Splitwise's pools": disturbed(routings=(Routing.SPLITWISE,)),
    "TetriInfer's dispatch": disturbed(routings=(Routing.TETRIINFER,)),
    "Mooncake's caches and early rejection": disturbed_caches(),
}
"""Systems of each policy to which things happen from outside."""


@pytest.mark.parametrize("name", EVENTFUL)
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_a_replica_that_has_failed_makes_no_token(name, data):
    """Nor does any work; every request is accounted for, and each token once."""
    system, events = data.draw(EVENTFUL[name])
    requests = data.draw(requests_for(name))
    options = {"is_itl_counted": True, "max_spans": 1 << 14}
    result = serve(system, requests, *events, **options)
    ended = result.num_done + result.num_rejected
    assert ended + result.num_unfinished == len(requests)
    spans = result.timeline
    assert spans.num_left_out == 0
    for replica, start_ms, end_ms in down_intervals(system, events):
        mine = spans.replica == replica
        assert not (mine & (spans.end_ms > start_ms) & (spans.start_ms < end_ms)).any()
    does_decode = any(r.phase is not Phase.PREFILL for r in system.replicas)
    if result.num_done == len(requests):
        later = int((requests.output_tokens - 1).sum()) if does_decode else 0
        assert result.token_gaps.num_gaps == later
