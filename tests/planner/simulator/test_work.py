"""Routers compare unlike replicas by the time they need for a token."""

import pytest

from planner.simulator.system import Phase
from planner.simulator.work import work_weight
from tests.planner.simulator.systems import tiny_replica, tiny_table


def test_a_token_of_decode_takes_its_share_of_a_full_batch():
    steps = tiny_table(prefill_ms=1.0, decode_ms=8.0)
    replica = tiny_replica(Phase.DECODE, steps, max_num_seqs=4)
    assert work_weight(replica) == pytest.approx(2.0)
    # Two contexts of 1,024 tokens fill the KV cache.
    small = tiny_replica(Phase.DECODE, steps, kv_capacity_tokens=2048)
    assert work_weight(small) == pytest.approx(4.0)


def test_the_slowest_stage_counts():
    fast, slow = (tiny_table(prefill_ms=t, decode_ms=t) for t in (1.0, 3.0))
    two = tiny_replica(Phase.DECODE, fast, slow, max_num_seqs=1)
    one = tiny_replica(Phase.DECODE, fast, max_num_seqs=1)
    assert work_weight(two) == pytest.approx(3.0 * work_weight(one))


def test_a_prompt_token_takes_its_share_of_a_full_step():
    steps = tiny_table(prefill_ms=6.0, decode_ms=1.0)
    replica = tiny_replica(Phase.PREFILL, steps, max_batch_tokens=3)
    full = steps.prefill_step_ms([3])
    assert work_weight(replica) == pytest.approx(full / 3)
