"""Splitwise pools by hand, and against the plain simulator."""

import numpy as np
import pytest
from hypothesis import given, settings

from clusters.fields import InputError
from planner.simulator.control import Forecast, RouterSettings
from planner.simulator.simulate import simulate
from planner.simulator.system import Batching, Phase, Routing
from tests.planner.simulator.disturbances import (
    DECODE,
    FAIL,
    PREFILL,
    SCALE_UP,
    event,
    link,
    serve,
)
from tests.planner.simulator.systems import (
    many_requests,
    tiny_replica,
    tiny_requests,
    tiny_system,
    tiny_table,
)
from tests.planner.simulator.test_simulator_reference import between_phases, matched

STEPS = tiny_table(prefill_ms=10.0, decode_ms=1.0)
PROMPT = tiny_replica(Phase.PREFILL, STEPS)
TOKEN = tiny_replica(Phase.DECODE, STEPS)


def pools(*replicas, **router):
    return tiny_system(
        *replicas, routing=Routing.SPLITWISE, router=RouterSettings(**router)
    )


def places(result) -> list[tuple[int, int]]:
    """Replicas that prefill and decode each request."""
    pairs = zip(result.prefill_replica, result.decode_replica, strict=True)
    return [(int(source), int(target)) for source, target in pairs]


def test_with_room_each_phase_has_its_pool():
    result = simulate(pools(PROMPT, TOKEN), tiny_requests((0.0, 4, 3), (50.0, 4, 3)))
    assert places(result) == [(0, 1), (0, 1)]
    assert result.finish_ms.tolist() == [12.0, 62.0]  # 10 + 2 steps


def test_a_token_machine_is_lent_when_prompts_pile_up():
    """r0 runs from 0, r1 waits; a limit of one token keeps r2 from machine 0.

    The token machine is lent: it prefills r2 from 2 to 12 and keeps it. Its next step
    ends at 13. At 50 nobody has foreign work, and the prompt machine has the next.
    """
    system = pools(PROMPT, TOKEN, max_pending_tokens=1)
    requests = tiny_requests((0.0, 4, 1), (1.0, 4, 1), (2.0, 4, 2), (50.0, 4, 2))
    result = simulate(system, requests)
    assert places(result)[2:] == [(1, 1), (0, 1)]
    assert result.first_token_ms.tolist() == [10.0, 20.0, 12.0, 60.0]
    assert result.finish_ms.tolist() == [10.0, 20.0, 13.0, 61.0]


def test_a_prompt_machine_is_lent_when_memory_is_promised():
    """Room for 20 tokens: r0 takes 4 + 10, r1 finds 6 and stays where it is prefilled.

    r2 (1 + 2) fits on the token machine again; its prompt goes to the mixed machine,
    the only one left for prompts.
    """
    small = tiny_replica(Phase.DECODE, STEPS, kv_capacity_tokens=20)
    system = pools(PROMPT, small, forecast=Forecast.TRUE)
    requests = tiny_requests((0.0, 4, 10), (1.0, 4, 10), (2.0, 1, 2))
    assert places(simulate(system, requests)) == [(0, 1), (0, 0), (0, 1)]


def test_a_lent_machine_goes_home_when_its_foreign_work_has_gone():
    """Prompt machines 0 and 1, a small token machine 2.

    r1 stays on machine 0 (see above). While it decodes, machine 1 alone is the prompt
    pool and gets r2 although it has as few pending tokens as machine 0. Later machine 0
    is home again, and the first of two equal ones.
    """
    small = tiny_replica(Phase.DECODE, STEPS, kv_capacity_tokens=20)
    system = pools(PROMPT, PROMPT, small, forecast=Forecast.TRUE)
    requests = tiny_requests((0.0, 4, 10), (15.0, 4, 10), (26.0, 1, 2), (90.0, 1, 2))
    assert places(simulate(system, requests)) == [(0, 2), (0, 0), (1, 2), (0, 2)]


def test_one_machine_serves_both_phases_when_nobody_has_room():
    """Nobody has room for r2, and machine 1 has the fewest pending tokens."""
    small = [
        tiny_replica(phase, STEPS, kv_capacity_tokens=20)
        for phase in (Phase.PREFILL, Phase.DECODE)
    ]
    system = pools(*small, forecast=Forecast.TRUE)
    requests = tiny_requests((0.0, 4, 10), (0.0, 4, 10), (0.0, 4, 10))
    result = simulate(system, requests)
    assert places(result) == [(0, 1), (0, 0), (1, 1)]
    assert result.num_done == 3


def test_routers_do_not_see_output_lengths():
    """All arrive at once, so replicas are chosen before any token is out."""
    rng = np.random.default_rng(3)
    replicas = [
        tiny_replica(phase, STEPS, kv_capacity_tokens=400)
        for phase in (Phase.PREFILL, Phase.PREFILL, Phase.DECODE, Phase.DECODE)
    ]
    inputs = rng.integers(1, 60, size=30).tolist()
    outputs = rng.integers(2, 100, size=30).tolist()

    def chosen(forecast: Forecast, lengths: list[int]) -> list[tuple[int, int]]:
        system = pools(*replicas, forecast=forecast, max_pending_tokens=100)
        rows = [(0.0, i, o) for i, o in zip(inputs, lengths, strict=True)]
        return places(simulate(system, tiny_requests(*rows)))

    for forecast in (Forecast.MEAN, Forecast.NONE):
        assert chosen(forecast, outputs) == chosen(forecast, outputs[::-1])
    assert chosen(Forecast.TRUE, outputs) != chosen(Forecast.TRUE, outputs[::-1])


def test_without_both_phases_it_is_the_shortest_queue():
    both = [tiny_replica(Phase.AGGREGATED, STEPS)] * 3
    requests = tiny_requests(*[(float(i), 1 + i % 4, 5) for i in range(30)])
    one, two = (
        simulate(tiny_system(*both, routing=routing), requests)
        for routing in (Routing.SPLITWISE, Routing.SHORTEST_QUEUE)
    )
    assert one.finish_ms.tolist() == two.finish_ms.tolist()


def test_machines_of_a_phase_need_routes_to_each_other():
    replicas = (PROMPT, PROMPT, TOKEN)
    plain = tiny_system(*replicas)
    with pytest.raises(InputError, match="0->1 missing"):
        tiny_system(*replicas, routing=Routing.SPLITWISE, routes=plain.routes)


@given(between_phases(Routing.SPLITWISE), many_requests())
@settings(max_examples=80, deadline=None)
def test_pools_match_the_reference_and_serve_everyone(system, requests):
    result, reference = matched(system, requests)
    assert result.num_done == len(requests)
    for job, source, target in zip(
        reference.jobs, result.prefill_replica, result.decode_replica, strict=True
    ):
        assert (source, target) == (job.prefiller.index, job.target.index)


@pytest.mark.parametrize("policy", list(Batching)[:4])
def test_a_burst_lends_machines_both_ways_under_every_policy(policy):
    """Not a single machine stays home in an overload, and nobody is left behind."""
    replicas = [
        tiny_replica(
            phase,
            tiny_table(per_prompt_token_ms=0.5, decode_ms=1.0, per_kv_token_ms=0.01),
            policy=policy,
            max_batch_tokens=64,
            kv_capacity_tokens=600,
            kv_block_tokens=4,
        )
        for phase in (Phase.PREFILL,) * 3 + (Phase.DECODE,) * 2
    ]
    rng = np.random.default_rng(5)
    rows = [
        (float(i // 4), int(rng.integers(1, 60)), int(rng.integers(1, 90)))
        for i in range(300)
    ]
    system = pools(*replicas, max_pending_tokens=100)
    result = simulate(system, tiny_requests(*rows))
    assert result.num_done == 300
    assert (result.prefill_replica >= 3).any()
    assert (result.decode_replica < 3).any()


def test_nothing_is_promised_to_the_lost_when_the_first_of_them_is_sent_on():
    """The prompt machine fails at 9, with one on its way to 2 and one to 1.

    Of both only the prompt and one token are left; to the first, 1 and 2 are alike.
    """
    routes = (link(0, 1, 8.0), link(0, 2, 8.0), link(1, 2), link(2, 1))
    system = tiny_system(
        PREFILL, DECODE, DECODE, routes=routes, routing=Routing.SPLITWISE
    )
    requests = tiny_requests((0.0, 3, 4), (1.0, 3, 4))
    result = serve(system, requests, event(0.5, SCALE_UP, 1), event(9.0, FAIL, 0))
    assert result.num_recomputed == 2
    assert result.decode_replica.tolist() == [1, 2]
