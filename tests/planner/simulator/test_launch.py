"""The lean kernel gives what the full one gives, and never a wrong answer."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from planner.simulator import launch
from planner.simulator.build import SimulationOptions, build_world
from planner.simulator.compiled import IS_LINKED
from planner.simulator.control import DecodeAdmission
from planner.simulator.handle import WorldHandle
from planner.simulator.kernel import run
from planner.simulator.launch import LeftOutError, needs_full_kernel, run_world
from planner.simulator.outside_build import with_outside
from planner.simulator.outside_schedule import OutsideEvent, OutsideKind
from planner.simulator.prefix_settings import PrefixCache
from planner.simulator.system import Phase, Routing
from planner.simulator.transfer_settings import (
    KvTransfer,
    LinkSharing,
    TransferMode,
)
from planner.workload.prefix_blocks import PrefixBlocks
from tests.planner.simulator.systems import (
    any_system,
    many_requests,
    tiny_replica,
    tiny_requests,
    tiny_system,
    tiny_table,
)

PREFILL = tiny_replica(Phase.PREFILL, tiny_table(prefill_ms=2.0))
DECODE = tiny_replica(Phase.DECODE, tiny_table(decode_ms=1.0))
BOTH = tiny_replica(Phase.AGGREGATED, tiny_table(prefill_ms=2.0, decode_ms=1.0))
REQUESTS = tiny_requests((0.0, 4, 9), (1.0, 3, 5), (1.0, 8, 2), (30.0, 2, 7))

NEEDS_FULL = {
    "random": tiny_system(PREFILL, DECODE, routing=Routing.RANDOM),
    "splitwise": tiny_system(PREFILL, DECODE, routing=Routing.SPLITWISE),
    "tetriinfer": tiny_system(PREFILL, DECODE, routing=Routing.TETRIINFER),
    "cache_aware": tiny_system(PREFILL, DECODE, routing=Routing.CACHE_AWARE),
    "layer_wise": tiny_system(
        PREFILL,
        DECODE,
        kv_transfer=KvTransfer(mode=TransferMode.LAYER_WISE, layer_wise_ms=0.5),
    ),
    "fair": tiny_system(
        PREFILL, DECODE, kv_transfer=KvTransfer(sharing=LinkSharing.FAIR)
    ),
    "capped": tiny_system(
        PREFILL,
        tiny_replica(Phase.DECODE, tiny_table(), max_step_context_tokens=16),
    ),
    "reserve_dynamic": tiny_system(
        PREFILL,
        tiny_replica(
            Phase.DECODE, tiny_table(), decode_admission=DecodeAdmission.RESERVE_DYNAMIC
        ),
    ),
}


def assert_same_arrays(one, two):
    for name, left, right in zip(one._fields, one, two, strict=True):
        assert left.tobytes() == right.tobytes(), name


@given(any_system(), many_requests())
@settings(max_examples=80, deadline=None)
def test_both_kernels_leave_the_same_bytes_behind(system, requests):
    options = SimulationOptions(is_itl_counted=True, max_spans=50)
    lean, full = (build_world(system, requests, options) for _ in range(2))
    if needs_full_kernel(lean):
        return
    assert run(WorldHandle(lean, is_lean=True)) == run(WorldHandle(full))
    assert_same_arrays(lean, full)


@pytest.mark.skipif(not IS_LINKED, reason="this numba cannot leave functions out")
@pytest.mark.parametrize("name", NEEDS_FULL)
def test_a_run_that_needs_more_begins_again_in_the_full_kernel(name, monkeypatch):
    system, options = NEEDS_FULL[name], SimulationOptions()
    full = build_world(system, REQUESTS, options)
    assert needs_full_kernel(full)
    with pytest.raises(LeftOutError):
        run(WorldHandle(build_world(system, REQUESTS, options), is_lean=True))
    run(WorldHandle(full))
    monkeypatch.setattr(launch, "needs_full_kernel", lambda world: False)
    world, is_complete = run_world(lambda: build_world(system, REQUESTS, options))
    assert is_complete
    assert_same_arrays(world, full)


def test_events_and_prefix_caches_need_the_full_kernel():
    plain = build_world(tiny_system(BOTH, BOTH), REQUESTS, SimulationOptions())
    assert not needs_full_kernel(plain)
    event = OutsideEvent(at_ms=3.0, kind=OutsideKind.FAIL, replica=0)
    assert needs_full_kernel(with_outside(plain, tiny_system(BOTH, BOTH), (event,)))
    cached = replace(BOTH, prefix_cache=PrefixCache(capacity_tokens=40))
    requests = replace(
        tiny_requests((0.0, 8, 1)),
        prefix_blocks=PrefixBlocks.of([(1, 2)], block_tokens=4),
    )
    world = build_world(tiny_system(cached), requests, SimulationOptions())
    assert needs_full_kernel(world)


def test_layer_wise_transfers_of_long_prompts_only_leave_short_ones_alone():
    system = tiny_system(
        PREFILL,
        DECODE,
        kv_transfer=KvTransfer(mode=TransferMode.BY_SIZE, layer_wise_above_tokens=8),
    )
    for tokens, needs in ((8, False), (9, True)):
        requests = tiny_requests((0.0, tokens, 2))
        world = build_world(system, requests, SimulationOptions())
        assert needs_full_kernel(world) == needs


def test_an_early_stop_is_the_same_in_both():
    worlds = []
    for is_lean in (True, False):
        world = build_world(tiny_system(BOTH), REQUESTS, SimulationOptions())
        world.clock["max_ttft_misses"] = 0
        world.clock["ttft_limit_ms"] = 0.5
        assert not run(WorldHandle(world, is_lean=is_lean))
        worlds.append(world)
    assert_same_arrays(*worlds)
    assert np.isnan(worlds[0].request["finish_ms"]).any()
