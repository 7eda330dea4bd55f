"""Routers compare unlike replicas by the time they need for a token."""

from dataclasses import replace

import pytest

from planner.simulator.build import SimulationOptions, build_world
from planner.simulator.system import Phase
from planner.simulator.work import work_weight
from tests.planner.simulator.systems import (
    tiny_replica,
    tiny_requests,
    tiny_system,
    tiny_table,
)


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


def test_as_many_blocks_of_another_size_are_not_the_same_room():
    steps, blocks = tiny_table(prefill_ms=1.0, decode_ms=8.0), 64
    small = tiny_replica(Phase.DECODE, steps, kv_capacity_tokens=blocks * 16)
    # One context of 1,024 tokens fits 64 blocks of 16 tokens, four fit 64 of 64.
    large = replace(small, kv_capacity_tokens=blocks * 64, kv_block_tokens=64)
    small = replace(small, kv_block_tokens=16)
    requests = tiny_requests((0.0, 1, 1))
    world = build_world(tiny_system(small, large), requests, SimulationOptions())
    assert world.replica["capacity_blocks"].tolist() == [blocks, blocks]
    assert world.replica["work_weight"].tolist() == pytest.approx([8.0, 2.0])
