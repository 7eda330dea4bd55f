"""Closed loop: rates derived by hand from steps, links and KV room."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.pipelines.closed_loop import LoopSettings, Served, serve
from planner.pipelines.costs import CostedFleet, MachineCosts
from planner.pipelines.flow import layer_flow
from planner.pipelines.layout import Layout
from planner.workload.requests import Requests
from tests.planner.pipelines.tiny_fleets import equal_requests, flat_costs, tiny_fleet

WHOLE = LoopSettings(warm_up_s=10.0, measured_s=100.0, kv_fill_frac=1.0)
ONE = tiny_fleet([("a", (9.0, 9.0, 9.0))], 1)
TWO = tiny_fleet([("a", (9.0, 9.0, 9.0))] * 2, 2)


def served(
    machines: CostedFleet,
    spans: dict[int, tuple[int, int]],
    requests: Requests,
    settings: LoopSettings = WHOLE,
) -> Served:
    layout = Layout.from_spans(spans)
    return serve(
        machines, layout, layer_flow(machines.fleet, layout), requests, settings
    )


def test_one_request_at_a_time_takes_its_steps():
    # KV room for 20 tokens is one request of 10 + 10. A prompt step of 20 ms gives the
    # first token, then 9 decode steps of 10 ms: 9 tokens in 110 ms.
    machines = flat_costs(ONE, prefill_ms=20.0, decode_ms=10.0, kv_tokens=20)
    result = served(machines, {0: (0, 1)}, equal_requests(10, 10))
    assert result.decode_tokens_per_s == pytest.approx(9 / 0.110, rel=0.01)
    assert result.in_flight == pytest.approx(1.0, abs=0.01)
    assert result.round_trip_ms == pytest.approx(10.0)
    assert result.busy_frac == pytest.approx((1.0,), abs=0.01)


def test_a_round_trip_passes_all_machines_and_links():
    # Two machines of 10 ms and three links of 5 ms: 35 ms a token. The prompt takes
    # 2 * 20 + 15 = 55 ms, so 9 tokens take 9 * 35 + 55 = 370 ms.
    fleet = tiny_fleet([("a", (9.0, 9.0))] * 2, 2, latency_ms=5.0)
    machines = flat_costs(fleet, prefill_ms=20.0, decode_ms=10.0, kv_tokens=20)
    result = served(machines, {0: (0, 1), 1: (1, 2)}, equal_requests(10, 10))
    assert result.round_trip_ms == pytest.approx(35.0)
    assert result.decode_tokens_per_s == pytest.approx(9 / 0.370, rel=0.01)


def test_two_requests_share_their_decode_steps():
    # Room for two, which stay together: a prompt step of 20 ms, then 9 decode steps of
    # 10 ms with both: 18 tokens in 110 ms.
    machines = flat_costs(ONE, prefill_ms=20.0, decode_ms=10.0, kv_tokens=40)
    result = served(machines, {0: (0, 1)}, equal_requests(10, 10))
    assert result.in_flight == pytest.approx(2.0, abs=0.01)
    assert result.decode_tokens_per_s == pytest.approx(18 / 0.110, rel=0.02)


def test_the_tightest_machine_bounds_the_requests_under_way():
    # Three requests of 20 tokens fit the first machine, one the second.
    costs = {
        name: MachineCosts(
            steps=flat_costs(TWO, prefill_ms=1.0, decode_ms=1.0, kv_tokens=1)
            .costs["a"]
            .steps,
            kv_tokens=(room,) * 3,
        )
        for name, room in (("a", 60), ("b", 20))
    }
    fleet = tiny_fleet([("a", (9.0,)), ("b", (9.0,))], 2)
    machines = CostedFleet(fleet=fleet, costs=costs)
    result = served(machines, {0: (0, 1), 1: (1, 2)}, equal_requests(10, 10))
    assert result.in_flight == pytest.approx(1.0, abs=0.01)


def test_a_token_that_enters_late_takes_part_in_the_rest_only():
    # Layers 0-1 on one machine, 1-2 on the other: two layers of 10 ms, then one.
    fleet = tiny_fleet([("a", (9.0, 9.0))] * 2, 3)
    machines = flat_costs(fleet, prefill_ms=20.0, decode_ms=10.0, kv_tokens=20)
    result = served(machines, {0: (0, 2), 1: (1, 3)}, equal_requests(10, 10))
    assert result.round_trip_ms == pytest.approx(30.0)


def test_a_slow_link_bounds_the_tokens():
    # 100 bytes/s carry 50 tokens/s with activations (2 bytes); a request has 10 + 9 of
    # them, of which 9 count: 50 * 9 / 19.
    fleet = tiny_fleet([("a", (99.0, 99.0))] * 2, 2, links={(0, 1): 100.0})
    machines = flat_costs(fleet, prefill_ms=1.0, decode_ms=1.0, kv_tokens=200)
    result = served(machines, {0: (0, 1), 1: (1, 2)}, equal_requests(10, 10))
    assert result.decode_tokens_per_s == pytest.approx(50 * 9 / 19, rel=0.02)


def test_routes_follow_the_planned_flow():
    # 6 and 3 tokens/s side by side: two thirds of the prompts go to the first machine.
    fleet = tiny_fleet([("a", (6.0,)), ("b", (3.0,))], 1)
    machines = flat_costs(fleet, prefill_ms=20.0, decode_ms=10.0, kv_tokens=400)
    slow = LoopSettings(
        warm_up_s=10.0, measured_s=100.0, kv_fill_frac=1.0, max_prompts=1
    )
    # One prompt at a time and one token each: steps are prompts only.
    result = served(machines, {0: (0, 1), 1: (0, 1)}, equal_requests(10, 1), slow)
    busy = result.busy_frac
    assert busy[0] / sum(busy) == pytest.approx(2 / 3, abs=0.01)


def test_chunks_ride_in_the_steps_of_decodes():
    # A step takes 10 ms whatever is in it, and holds one prompt of 10 tokens at most.
    # So 10 requests stagger: every step has one prompt and 9 decodes.
    machines = flat_costs(ONE, prefill_ms=10.0, decode_ms=10.0, kv_tokens=200)
    chunked = LoopSettings(
        chunk_tokens=10, warm_up_s=10.0, measured_s=100.0, kv_fill_frac=1.0
    )
    result = served(machines, {0: (0, 1)}, equal_requests(10, 10), chunked)
    assert result.decode_tokens_per_s == pytest.approx(9 / 0.010, rel=0.01)


def test_the_chunks_of_a_prompt_follow_each_other():
    # Four chunks of 10 ms, then 9 decodes of 10 ms: one request at a time.
    machines = flat_costs(ONE, prefill_ms=10.0, decode_ms=10.0, kv_tokens=50)
    chunked = LoopSettings(
        chunk_tokens=10, warm_up_s=10.0, measured_s=100.0, kv_fill_frac=1.0
    )
    result = served(machines, {0: (0, 1)}, equal_requests(40, 10), chunked)
    assert result.decode_tokens_per_s == pytest.approx(9 / 0.130, rel=0.01)


def test_a_request_longer_than_the_kv_room_is_refused():
    machines = flat_costs(ONE, prefill_ms=20.0, decode_ms=10.0, kv_tokens=20)
    requests = Requests(
        arrival_ms=np.zeros(2),
        input_tokens=np.array([30, 10]),
        output_tokens=np.array([10, 10]),
    )
    result = served(machines, {0: (0, 1)}, requests)
    assert result.num_refused > 0
    assert result.decode_tokens_per_s == pytest.approx(9 / 0.110, rel=0.01)


def test_nothing_is_served_when_nothing_fits():
    machines = flat_costs(ONE, prefill_ms=20.0, decode_ms=10.0, kv_tokens=10)
    result = served(machines, {0: (0, 1)}, equal_requests(10, 10))
    assert result.decode_tokens_per_s == 0.0
    assert result.num_refused == 4


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(20, 200),
    st.integers(1, 30),
    st.integers(2, 20),
    st.sampled_from([None, 4, 16]),
)
def test_requests_fit_and_tokens_are_conserved(depth, room, prompt, answer, chunk):
    fleet = tiny_fleet([("a", (9.0,))] * depth, depth, latency_ms=1.0)
    machines = flat_costs(fleet, prefill_ms=5.0, decode_ms=2.0, kv_tokens=room)
    settings_ = LoopSettings(
        chunk_tokens=chunk, warm_up_s=5.0, measured_s=20.0, kv_fill_frac=1.0
    )
    spans = {machine: (machine, machine + 1) for machine in range(depth)}
    result = served(machines, spans, equal_requests(prompt, answer), settings_)
    fit = room // (prompt + answer)
    assert result.in_flight <= fit + 1e-9
    # Every prompt is followed by the same number of decodes, up to those under way.
    decodes = result.decode_tokens_per_s * 20.0
    prompts = result.prompts_per_s * 20.0
    assert abs(decodes - prompts * (answer - 1)) <= fit * answer
    again = served(machines, spans, equal_requests(prompt, answer), settings_)
    assert again == result
