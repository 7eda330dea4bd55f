"""When a decode replica fetches a request: three rules on one example.

Two requests of 10 + 41 tokens are prefilled at 1 and decoded until 41. One of 20 + 41
is prefilled a millisecond after it comes. In buckets of 20, an output of 41 is forecast
as 40.
"""

import pytest

from planner.simulator.build import SimulationOptions
from planner.simulator.control import DecodeAdmission, Forecast, RouterSettings
from planner.simulator.simulate import simulate
from planner.simulator.system import Phase
from tests.planner.simulator.systems import (
    tiny_replica,
    tiny_requests,
    tiny_system,
    tiny_table,
)


@pytest.mark.parametrize(
    ("rule", "capacity", "arrival_ms", "fetched_ms"),
    [
        # At 2 the two hold 11 tokens each and have a context of 12.
        (DecodeAdmission.GREEDY, 70, 1.0, 2.0),  # 21 <= 70 - 22
        # At 12 they hold 21 each; 1 % stays free: 20 + 40 + 1 <= 103 - 42.
        (DecodeAdmission.RESERVE_STATIC, 103, 11.0, 12.0),
        (DecodeAdmission.RESERVE_STATIC, 102, 11.0, 41.0),
        # They end 38 tokens later. Then there are 20 + 38, one of them with 38 more,
        # and what the other leaves, 12, beside 106 - 22 that are free.
        (DecodeAdmission.RESERVE_DYNAMIC, 106, 1.0, 2.0),
        # A step later they have 13 and 37 to go: 20 + 2 * 37 <= 105 - 24 + 13.
        (DecodeAdmission.RESERVE_DYNAMIC, 105, 1.0, 3.0),
        # At 31 they hold 40 each: 60 <= 106 - 80 is wrong, 20 + 2 * 9 <= 26 + 41 right.
        (DecodeAdmission.RESERVE_STATIC, 106, 30.0, 41.0),
        (DecodeAdmission.RESERVE_DYNAMIC, 106, 30.0, 31.0),
    ],
)
@pytest.mark.parametrize("is_fast_forward", [True, False])
def test_a_request_is_fetched_when_its_rule_sees_room(
    rule, capacity, arrival_ms, fetched_ms, is_fast_forward
):
    steps = tiny_table(prefill_ms=1.0, decode_ms=1.0)
    decoder = tiny_replica(
        Phase.DECODE, steps, decode_admission=rule, kv_capacity_tokens=capacity
    )
    system = tiny_system(
        tiny_replica(Phase.PREFILL, steps),
        decoder,
        router=RouterSettings(
            forecast=Forecast.BUCKETS, bucket_tokens=20, bucket_accuracy_frac=1.0
        ),
    )
    requests = tiny_requests((0.0, 10, 41), (0.0, 10, 41), (arrival_ms, 20, 41))
    options = SimulationOptions(is_fast_forward=is_fast_forward)
    result = simulate(system, requests, options=options)
    assert result.transfer_start_ms[2] == pytest.approx(fetched_ms)


def test_reservations_preempt_less_than_greed():
    """Forty requests of 10 + 80 tokens, one every 5 ms, on a replica for 300."""
    steps = tiny_table(prefill_ms=1.0, decode_ms=1.0)
    preemptions = {}
    for rule in DecodeAdmission:
        decoder = tiny_replica(
            Phase.DECODE, steps, decode_admission=rule, kv_capacity_tokens=300
        )
        system = tiny_system(
            tiny_replica(Phase.PREFILL, steps),
            decoder,
            router=RouterSettings(forecast=Forecast.TRUE),
        )
        requests = tiny_requests(*[(5.0 * i, 10, 80) for i in range(40)])
        result = simulate(system, requests)
        assert result.num_done == 40
        preemptions[rule] = result.num_preemptions
    static = preemptions[DecodeAdmission.RESERVE_STATIC]
    greedy = preemptions[DecodeAdmission.GREEDY]
    assert static < greedy
    assert preemptions[DecodeAdmission.RESERVE_DYNAMIC] < greedy
