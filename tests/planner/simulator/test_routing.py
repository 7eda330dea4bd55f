"""Routers that choose by chance or by one queue."""

import numpy as np
import pytest

from planner.simulator.control import RouterSettings
from planner.simulator.simulate import simulate
from planner.simulator.system import Phase, Routing
from tests.planner.simulator.systems import (
    tiny_replica,
    tiny_requests,
    tiny_system,
    tiny_table,
)

STEPS = tiny_table(prefill_ms=1.0, decode_ms=1.0)


def counts(routing: Routing, num_replicas: int, num_requests: int) -> np.ndarray:
    """Requests of each replica when all arrive at once."""
    replicas = [tiny_replica(Phase.PREFILL, STEPS)] * num_replicas
    system = tiny_system(*replicas, routing=routing)
    result = simulate(system, tiny_requests(*[(0.0, 1, 1)] * num_requests))
    return np.bincount(result.prefill_replica, minlength=num_replicas)


def test_two_choices_spread_requests_far_better_than_one():
    """Balls in bins: of 4000 in 50 the fullest has 80 + O(sqrt(80 ln 50)) at random,
    80 + O(log log 50) with two choices (Mitzenmacher 2001)."""
    at_random = counts(Routing.RANDOM, 50, 4000)
    of_two = counts(Routing.POWER_OF_TWO, 50, 4000)
    assert at_random.max() >= 95
    assert of_two.max() <= 84
    assert at_random.sum() == of_two.sum() == 4000


@pytest.mark.parametrize("routing", [Routing.RANDOM, Routing.POWER_OF_TWO])
def test_chance_follows_the_seed(routing):
    replicas = [tiny_replica(Phase.PREFILL, STEPS)] * 4
    requests = tiny_requests(*[(float(i), 1, 1) for i in range(40)])

    def chosen(seed: int) -> list[int]:
        router = RouterSettings(seed=seed)
        system = tiny_system(*replicas, routing=routing, router=router)
        return simulate(system, requests).prefill_replica.tolist()

    assert chosen(1) == chosen(1)
    assert chosen(1) != chosen(2)


def test_decode_replicas_are_drawn_apart_from_prefill_replicas():
    """With four of each, both choices agree for about a quarter of the requests."""
    replicas = [tiny_replica(Phase.PREFILL, STEPS)] * 4
    replicas += [tiny_replica(Phase.DECODE, STEPS)] * 4
    system = tiny_system(*replicas, routing=Routing.RANDOM)
    result = simulate(system, tiny_requests(*[(float(i), 1, 3) for i in range(400)]))
    same = (result.decode_replica - 4 == result.prefill_replica).mean()
    assert 0.15 < same < 0.35


@pytest.mark.parametrize(
    ("routing", "chosen"), [(Routing.SHORTEST_QUEUE, 1), (Routing.PENDING_TOKENS, 0)]
)
def test_pending_tokens_forgets_a_prompt_that_is_computed(routing, chosen):
    """Replica 0 decodes 8 prompt tokens, replica 1 is about to prefill 2.

    r0 (8 tokens) goes to 0 and is prefilled at 1; r1 (2 tokens) comes at 1.5 to the
    idle replica 1 and is prefilled at 2.5; r2 comes at 2. In the system: 8 against 2;
    waiting or being prefilled: 0 against 2.
    """
    both = tiny_replica(Phase.AGGREGATED, STEPS)
    system = tiny_system(both, both, routing=Routing.SHORTEST_QUEUE)
    first = simulate(system, tiny_requests((0.0, 8, 9), (1.5, 2, 9)))
    assert first.prefill_replica.tolist() == [0, 1]
    system = tiny_system(both, both, routing=routing)
    result = simulate(system, tiny_requests((0.0, 8, 9), (1.5, 2, 9), (2.0, 1, 1)))
    assert result.prefill_replica.tolist() == [0, 1, chosen]
