"""Prefix caches: hits by hand, against a plain list, and against plain simulators."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusters.fields import InputError
from planner.simulator.build import SimulationOptions
from planner.simulator.prefix_settings import (
    AdmissionRule,
    CacheScope,
    EarlyRejection,
    PrefixCache,
)
from planner.simulator.simulate import simulate
from planner.simulator.system import Batching, Phase, Routing
from planner.workload.prefix_blocks import PrefixBlocks
from planner.workload.turns import Turns
from tests.planner.simulator.reference_prefix import LruCache, PrefixSimulator
from tests.planner.simulator.systems import (
    assert_same_times,
    eighths,
    many_requests,
    step_by_step,
    systems,
    tiny_replica,
    tiny_requests,
    tiny_system,
    tiny_table,
)
from tests.planner.simulator.test_simulator_reference import assert_matches

ROUTINGS = (Routing.ROUND_ROBIN, Routing.SHORTEST_QUEUE, Routing.CACHE_AWARE)
KEPT = PrefixCache(capacity_tokens=40)
PROMPTS = tiny_table(per_prompt_token_ms=1.0)


def with_blocks(requests, *rows, block_tokens=4):
    return replace(
        requests, prefix_blocks=PrefixBlocks.of(rows, block_tokens=block_tokens)
    )


def test_only_what_is_not_cached_is_computed():
    # 12 tokens in blocks of 4: 12 ms. The second shares two blocks: 12 - 8 = 4 ms. The
    # third is the first again: all but the last token is cached, 1 ms.
    system = tiny_system(tiny_replica(Phase.PREFILL, PROMPTS, prefix_cache=KEPT))
    requests = with_blocks(
        tiny_requests((0, 12, 1), (100, 12, 1), (200, 12, 1)),
        (1, 2, 3),
        (1, 2, 4),
        (1, 2, 3),
    )
    result = simulate(system, requests)
    assert result.ttft_ms.tolist() == [12, 4, 1]
    assert result.hit_blocks.tolist() == [0, 2, 3]
    assert result.hit_tokens.tolist() == [0, 8, 11]
    assert result.prefix_hit_frac() == 19 / 36


def test_attention_over_the_cached_part_is_paid():
    # c = 1: n new tokens after p cached cost n * (n + 2 p) = 4 * (4 + 16) = 80 ms.
    table = replace(tiny_table(), prefill_per_sq_token_ms=1.0)
    system = tiny_system(tiny_replica(Phase.PREFILL, table, prefix_cache=KEPT))
    requests = with_blocks(
        tiny_requests((0, 12, 1), (500, 12, 1)), (1, 2, 3), (1, 2, 4)
    )
    assert simulate(system, requests).ttft_ms.tolist() == [144, 80]


def test_a_prompt_is_in_the_cache_when_its_prefill_ends():
    # The second arrives while the first is computed, and is then found whole.
    system = tiny_system(
        tiny_replica(Phase.PREFILL, PROMPTS, max_num_seqs=1, prefix_cache=KEPT)
    )
    requests = with_blocks(tiny_requests((0, 8, 1), (4, 8, 1)), (1, 2), (1, 2))
    assert simulate(system, requests).ttft_ms.tolist() == [8, 4 + 1]


@pytest.mark.parametrize(("bytes_per_s", "ttft_ms"), [(4e3, 4), (1e3, 8)])
def test_loading_hides_behind_computing_layer_by_layer(bytes_per_s, ttft_ms):
    # 8 cached tokens of a byte load in 2 or 8 ms, beside 4 ms of computing.
    cache = replace(KEPT, load_bytes_per_s=bytes_per_s)
    system = tiny_system(tiny_replica(Phase.PREFILL, PROMPTS, prefix_cache=cache))
    requests = with_blocks(tiny_requests((0, 8, 1), (100, 12, 1)), (1, 2), (1, 2, 3))
    assert simulate(system, requests).ttft_ms.tolist() == [8, ttft_ms]


@pytest.mark.parametrize(
    ("scope", "hits"), [("local", [0, 0, 2]), ("global", [0, 2, 2])]
)
def test_a_global_cache_serves_all_replicas(scope, hits):
    cache = replace(KEPT, scope=CacheScope(scope))
    replica = tiny_replica(Phase.PREFILL, PROMPTS, prefix_cache=cache)
    system = tiny_system(replica, replica, routing=Routing.ROUND_ROBIN)
    requests = with_blocks(
        tiny_requests((0, 8, 1), (50, 8, 1), (99, 8, 1)), (1, 2), (1, 2), (1, 2)
    )
    assert simulate(system, requests).hit_blocks.tolist() == hits


def test_a_cache_without_a_capacity_gives_way_to_the_kv_cache():
    # 16 tokens of KV. The first prompt (8) leaves two blocks in the cache; the second
    # (12) leaves room for one, the more recent of them, which is no start of a prompt.
    cache = PrefixCache()
    system = tiny_system(
        tiny_replica(Phase.PREFILL, PROMPTS, prefix_cache=cache, kv_capacity_tokens=16)
    )
    requests = with_blocks(
        tiny_requests((0, 8, 1), (50, 8, 1), (100, 12, 1), (200, 8, 1)),
        (1, 2),
        (1, 2),
        (7, 8, 9),
        (1, 2),
    )
    assert simulate(system, requests).hit_blocks.tolist() == [0, 2, 0, 0]


def test_a_prompt_that_another_replica_shortens_does_not_wait_for_the_run_to_end():
    # A budget of 8 in tiles of 3, and 6 decodes: a chunk of 2 tokens fits, a larger one
    # is cut to none. The prompt of 8 waits for that until its blocks are cached.
    cache = replace(KEPT, scope=CacheScope.GLOBAL)
    table = tiny_table(per_prompt_token_ms=1.0, decode_ms=1.0)
    replica = tiny_replica(
        Phase.AGGREGATED,
        table,
        policy=Batching.CHUNKED,
        max_batch_tokens=8,
        chunk_tile_tokens=3,
        prefix_cache=cache,
    )
    system = tiny_system(replica, replica, routing=Routing.ROUND_ROBIN)
    rows = [(0, 1, 200) if i % 2 == 0 else (0, 1, 1) for i in range(12)]
    rows += [(50, 8, 1), (50, 8, 1)]  # to replica 0, which is full, and to 1
    blocks = [()] * 12 + [(1, 2)] * 2
    requests = with_blocks(tiny_requests(*rows), *blocks)
    result = simulate(system, requests)
    assert result.prefill_replica[12:].tolist() == [0, 1]
    assert result.hit_tokens[12:].tolist() == [7, 0]
    # 8 ms on replica 1, then at once; the decodes last to beyond 200 ms.
    assert result.first_token_ms[12] < 75
    assert_same_times(result, step_by_step(system, requests))


@given(
    st.lists(st.lists(st.integers(0, 30), max_size=8, unique=True), min_size=1),
    st.integers(0, 12),
)
@settings(max_examples=200, deadline=None)
def test_hits_are_those_of_a_plain_list_in_order_of_use(rows, capacity):
    """Prompts one after the other; ids in any order, so that the table is mixed up."""
    requests = tiny_requests(*((i, max(1, 4 * len(r)), 1) for i, r in enumerate(rows)))
    cache = PrefixCache(capacity_tokens=4 * capacity)
    system = tiny_system(tiny_replica(Phase.PREFILL, tiny_table(), prefix_cache=cache))
    plain = LruCache(cache, 4, capacity)
    hits = []
    for row in rows:
        hits.append(plain.num_matching(row))
        plain.keep(row)
    result = simulate(system, with_blocks(requests, *rows))
    if any(rows):
        assert result.hit_blocks.tolist() == hits


@st.composite
def prompts_with_prefixes(draw, max_size=16):
    """Prompts that are paths in a small tree of blocks of four tokens."""
    requests = draw(many_requests(max_size=max_size))
    rows = []
    for tokens in requests.input_tokens.tolist():
        path = draw(st.lists(st.integers(0, 1), min_size=6, max_size=6))
        ids = [int("1" + "".join(map(str, path[: n + 1])), 2) for n in range(6)]
        rows.append(tuple(ids[: -(-tokens // 4)]))
    return with_blocks(requests, *rows)


@st.composite
def caches(draw, *, is_leftover):
    scope = CacheScope.LOCAL if is_leftover else draw(st.sampled_from(CacheScope))
    is_local = scope is CacheScope.LOCAL
    rates = st.sampled_from([None, 250.0, 4000.0])
    return PrefixCache(
        scope=scope,
        capacity_tokens=None if is_leftover else draw(st.sampled_from([0, 8, 20, 400])),
        load_bytes_per_s=draw(rates),
        fetch_bytes_per_s=draw(rates) if is_local else None,
        balancing_threshold=draw(st.sampled_from([1.0, 2.0])),
        keeps_outputs=draw(st.booleans()),
    )


@st.composite
def cached_systems(draw, *, is_leftover=False):
    policies = tuple(p for p in Batching)
    shapes = ("both", "disaggregated", "prefill")
    system = draw(systems(policies=policies, shapes=shapes, routings=ROUTINGS))
    cache = draw(caches(is_leftover=is_leftover))
    rejection = None
    if draw(st.booleans()):
        rule = draw(st.sampled_from(AdmissionRule))
        is_predicted = rule is AdmissionRule.PREDICTED
        rejection = EarlyRejection(
            rule=rule,
            ttft_ms=draw(eighths(400, least=1)),
            tbt_ms=draw(eighths(200, least=1)),
            decode_ms=draw(eighths(400, least=1)) if is_predicted else None,
        )
    return replace(
        system,
        kv_bytes_per_token=0.25,
        replicas=tuple(
            replace(
                r,
                prefix_cache=cache if r.phase is not Phase.DECODE else None,
                limits=replace(r.limits, is_batch_padded=False),
            )
            for r in system.replicas
        ),
        routing=draw(st.sampled_from(ROUTINGS)),
        early_rejection=rejection,
    )


@st.composite
def sessions(draw):
    """Requests of which the later ones follow earlier ones."""
    requests = draw(prompts_with_prefixes())
    num = len(requests)
    num_first = draw(st.integers(1, num))
    free = list(range(num_first))
    previous = [-1] * num_first
    for turn in range(num_first, num):
        previous.append(free.pop(draw(st.integers(0, len(free) - 1))))
        free.append(turn)
    think = [draw(eighths(80)) for _ in range(num)]
    return replace(
        requests, turns=Turns(previous=np.array(previous), think_ms=np.array(think))
    )


def assert_same_hits(result, reference):
    assert result.hit_blocks.tolist() == [job.hits for job in reference.jobs]
    assert result.hit_tokens.tolist() == [job.hit_tokens for job in reference.jobs]


@given(st.booleans().flatmap(lambda b: cached_systems(is_leftover=b)), sessions())
@settings(max_examples=200, deadline=None)
def test_cached_prefixes_and_sessions_match_the_reference(system, requests):
    reference = PrefixSimulator(system, requests)
    reference.run()
    result = simulate(system, requests)
    assert result.num_done + result.num_rejected == len(requests)
    # Requests that end at one instant give their blocks back in no order of note, and
    # then what a cache keeps of them depends on it.
    ends = [job.finish for job in reference.jobs if not job.is_rejected]
    if len(set(ends)) == len(ends):
        assert_matches(result, reference)
        assert_same_hits(result, reference)


@given(st.booleans().flatmap(lambda b: cached_systems(is_leftover=b)), sessions())
@settings(max_examples=60, deadline=None)
def test_fast_forward_changes_nothing_with_a_cache(system, requests):
    assert_same_times(simulate(system, requests), step_by_step(system, requests))


@given(cached_systems(), prompts_with_prefixes(), st.integers(1, 6), eighths(400, 1))
@settings(max_examples=60, deadline=None)
def test_a_closed_loop_with_a_ramp_matches_the_reference(
    system, requests, clients, ramp
):
    reference = PrefixSimulator(system, requests, clients, ramp)
    reference.run()
    options = SimulationOptions(concurrency=clients, ramp_ms=ramp)
    assert_matches(simulate(system, requests, options=options), reference)


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("capacity_bytes", {"capacity_tokens": 5, "capacity_bytes": 5.0}),
        ("capacity_tokens", {"scope": CacheScope.GLOBAL}),
        ("fetch_bytes_per_s", {"scope": "global", "capacity_tokens": 5}),
    ],
)
def test_settings_that_contradict_each_other_are_refused(key, changes):
    if key == "fetch_bytes_per_s":
        changes = {**changes, "scope": CacheScope.GLOBAL, key: 1.0}
    with pytest.raises(InputError, match=key):
        PrefixCache(**changes)
