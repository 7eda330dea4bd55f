"""The concurrency bound: by hand, and above what the closed loop serves."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.pipelines.closed_loop import LoopSettings, serve
from planner.pipelines.costs import TypicalLoad
from planner.pipelines.flow import layer_flow
from planner.pipelines.layout import Layout
from planner.pipelines.served_bound import concurrency_bound
from tests.planner.pipelines.tiny_fleets import equal_requests, flat_costs, tiny_fleet

LOAD = TypicalLoad(input_tokens=10, output_tokens=10)


def test_requests_that_fit_over_the_shortest_round_trip():
    # 60 tokens of room are 3 requests; two machines of 10 ms and three links of 5 ms.
    fleet = tiny_fleet([("a", (9.0, 9.0))] * 2, 2, latency_ms=5.0)
    machines = flat_costs(fleet, prefill_ms=20.0, decode_ms=10.0, kv_tokens=60)
    layout = Layout.from_spans({0: (0, 1), 1: (1, 2)})
    bound = concurrency_bound(machines, layout, layer_flow(fleet, layout), LOAD)
    assert bound.in_flight == pytest.approx(3.0)
    assert bound.round_trip_ms == pytest.approx(35.0)
    assert bound.decode_tokens_per_s == pytest.approx(3 / 0.035)


def test_machines_side_by_side_have_room_for_more():
    fleet = tiny_fleet([("a", (9.0,))] * 2, 1)
    machines = flat_costs(fleet, prefill_ms=20.0, decode_ms=10.0, kv_tokens=60)
    layout = Layout.from_spans({0: (0, 1), 1: (0, 1)})
    bound = concurrency_bound(machines, layout, layer_flow(fleet, layout), LOAD)
    # Each sees half of the requests, and those pass one machine of 10 ms.
    assert bound.in_flight == pytest.approx(6.0)
    assert bound.round_trip_ms == pytest.approx(10.0)


def test_a_layout_without_flow_serves_nothing():
    fleet = tiny_fleet([("a", (9.0,))], 2)
    machines = flat_costs(fleet, prefill_ms=20.0, decode_ms=10.0, kv_tokens=60)
    layout = Layout.from_spans({0: (0, 1)})
    bound = concurrency_bound(machines, layout, layer_flow(fleet, layout), LOAD)
    assert bound.decode_tokens_per_s == 0.0


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(40, 400), st.floats(0.0, 20.0))
def test_a_pipeline_never_serves_more(depth, room, latency_ms):
    # A row of machines has one route, so every request takes the planned flow.
    fleet = tiny_fleet([("a", (9.0,))] * depth, depth, latency_ms=latency_ms)
    machines = flat_costs(fleet, prefill_ms=5.0, decode_ms=2.0, kv_tokens=room)
    layout = Layout.from_spans({m: (m, m + 1) for m in range(depth)})
    flow = layer_flow(fleet, layout)
    bound = concurrency_bound(machines, layout, flow, LOAD).decode_tokens_per_s
    result = serve(
        machines,
        layout,
        flow,
        equal_requests(10, 10),
        LoopSettings(warm_up_s=5.0, measured_s=20.0, kv_fill_frac=1.0),
    )
    assert result.decode_tokens_per_s <= bound * (1 + 1e-9)
