"""Cache-aware routing by hand: whose expected TTFT is least, and when blocks move."""

from dataclasses import replace

import pytest

from planner.simulator.prefix_settings import PrefixCache
from planner.simulator.simulate import simulate
from planner.simulator.system import Phase, Routing
from planner.workload.prefix_blocks import PrefixBlocks
from tests.planner.simulator.systems import (
    tiny_replica,
    tiny_requests,
    tiny_system,
    tiny_table,
)

KEPT = PrefixCache(capacity_tokens=1000)
PROMPTS = tiny_table(per_prompt_token_ms=1.0)


def served(cache, rows, blocks, *, num_replicas=2, routing=Routing.CACHE_AWARE):
    """Prompts in blocks of 10 tokens, one at a time on each replica, 1 ms a token."""
    replica = tiny_replica(Phase.PREFILL, PROMPTS, max_num_seqs=1, prefix_cache=cache)
    requests = replace(
        tiny_requests(*rows), prefix_blocks=PrefixBlocks.of(blocks, block_tokens=10)
    )
    system = tiny_system(*[replica] * num_replicas, routing=routing)
    return simulate(system, requests)


def test_a_prompt_goes_where_its_prefix_is_unless_the_queue_is_longer():
    # 0: (1, 2) to replica 0. At 100 replica 0 has it cached: another prompt of 40 ms,
    # (3 .. 6), goes to 0 as well, since both are idle. At 101 (1, 2, 7) would wait
    # 39 ms and take 10 on replica 0 (49), or 30 on replica 1.
    rows = ((0, 20, 1), (100, 40, 1), (101, 30, 1))
    result = served(KEPT, rows, ((1, 2), (3, 4, 5, 6), (1, 2, 7)))
    assert result.prefill_replica.tolist() == [0, 0, 1]
    assert result.ttft_ms.tolist() == [20, 40, 30]
    # With 25 ms before it, the queue is worth the 20 cached tokens: 25 - 1 + 10. The
    # router does not see what of the prompt under way is done: 25 + 10 > 30 at 0 ...
    rows = ((0, 20, 1), (100, 15, 1), (101, 30, 1))
    result = served(KEPT, rows, ((1, 2), (3, 4), (1, 2, 7)))
    # ... but 15 + 10 < 30.
    assert result.prefill_replica.tolist() == [0, 0, 0]
    assert result.ttft_ms.tolist() == [20, 15, 14 + 10]


@pytest.mark.parametrize(
    ("threshold", "is_copied"), [(1.0, True), (2.9, True), (3.0, False)]
)
def test_the_longest_prefix_is_copied_when_a_replica_holds_far_less(
    threshold, is_copied
):
    """Replica 0 holds 30 tokens and is busy; replica 1 holds 10 of them: 3 times less.

    Without a copy, replica 1 takes 30 of 40 ms; copied at 2 tokens a ms, 20 tokens
    take 10 ms beside the 10 of the last block.
    """
    cache = replace(KEPT, fetch_bytes_per_s=2000.0, balancing_threshold=threshold)
    rows = ((0, 30, 1), (1, 10, 1), (100, 90, 1), (101, 40, 1))
    blocks = ((1, 2, 3), (1,), tuple(range(10, 19)), (1, 2, 3, 4))
    result = served(cache, rows, blocks)
    assert result.prefill_replica.tolist() == [0, 1, 0, 1]
    assert result.hit_blocks.tolist() == [0, 0, 0, 3 if is_copied else 1]
    assert result.ttft_ms[-1] == (10 if is_copied else 30)


def test_without_caches_the_least_expected_ttft_is_the_shortest_queue_in_time():
    # 20 ms wait at replica 0 and 30 at replica 1.
    rows = ((0, 20, 1), (0, 30, 1), (1, 5, 1))
    result = served(None, rows, ((), (), ()))
    assert result.prefill_replica.tolist() == [0, 1, 0]


def test_random_routing_is_the_same_in_every_run_and_spreads_requests():
    rows = [(float(i), 1, 1) for i in range(400)]
    runs = [
        served(None, rows, [()] * 400, num_replicas=4, routing=Routing.RANDOM)
        for _ in range(2)
    ]
    assert runs[0].prefill_replica.tolist() == runs[1].prefill_replica.tolist()
    # Binomial with p = 1/4: 100 a replica, standard deviation 8.7.
    assert all(70 < stats.num_requests < 130 for stats in runs[0].replicas)
