"""Small systems and requests by hand and by Hypothesis, and how runs are compared.

Drawn numbers are small multiples of powers of two, so sums and products are exact in
floating point: ends that coincide on paper coincide in the simulators.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
from hypothesis import strategies as st

from models.latency.mixed_extra import MixedExtra
from models.latency.step_table import StepTable
from planner.simulator.build import SimulationOptions
from planner.simulator.control import (
    DecodeAdmission,
    DecodeMix,
    Forecast,
    PromptOrder,
    RouterSettings,
)
from planner.simulator.outcome import SimulationResult
from planner.simulator.simulate import simulate
from planner.simulator.system import (
    Batching,
    BatchLimits,
    EdgeShare,
    KvRoute,
    Phase,
    Routing,
    ServingReplica,
    ServingSystem,
    kv_phases,
)
from planner.simulator.transfer_settings import KvTransfer, TransferMode
from planner.workload.requests import Requests

TIMES = (
    "prefill_start_ms",
    "first_token_ms",
    "transfer_start_ms",
    "decode_ready_ms",
    "finish_ms",
)
MANY_TOKENS = 1 << 40
PLAIN_ROUTINGS = tuple(each for each in Routing if each is not Routing.CACHE_AWARE)
"""Those of the plain simulator; `reference_prefix` has the other."""


def tiny_table(
    prefill_ms: float = 0.0,
    per_prompt_token_ms: float = 0.0,
    decode_ms: float = 0.0,
    per_kv_token_ms: float = 0.0,
) -> StepTable:
    """Prefill `prefill_ms + per_prompt_token_ms * tokens`; decode G + H * kv."""
    return StepTable(
        prefill_tokens=(0.0, 1.0),
        prefill_ms=(prefill_ms, prefill_ms + per_prompt_token_ms),
        decode_batch=(0.0,),
        decode_ms=(decode_ms,),
        decode_per_kv_token_ms=(per_kv_token_ms,),
    )


def tiny_replica(phase: Phase, *stages: StepTable, **changes) -> ServingReplica:
    """A replica with ample KV in blocks of one token; `changes` also of its limits."""
    names = BatchLimits.__dataclass_fields__
    limits = {name: changes.pop(name) for name in names if name in changes}
    given = {"kv_capacity_tokens": MANY_TOKENS, "kv_block_tokens": 1, **changes}
    return ServingReplica(
        phase=phase, stages=stages, limits=BatchLimits(**limits), **given
    )


def kv_routes_of(
    replicas: Sequence[ServingReplica], routing: Routing
) -> tuple[KvRoute, ...]:
    """Free transfers wherever the routing policy may send a KV cache."""
    phases = [replica.phase for replica in replicas]
    return tuple(
        KvRoute(source=source, target=target, latency_ms=0.0, ms_per_byte=0.0)
        for source, target in product(range(len(phases)), repeat=2)
        if source != target and (phases[source], phases[target]) in kv_phases(routing)
    )


def tiny_system(*replicas: ServingReplica, **changes) -> ServingSystem:
    """Replicas with free transfers between all of them, unless `routes` are given."""
    routes = kv_routes_of(replicas, changes.get("routing", Routing.ROUND_ROBIN))
    given = {"routes": routes, "kv_bytes_per_token": 1.0, **changes}
    return ServingSystem(replicas=replicas, **given)


def tiny_requests(*rows: tuple[float, int, int]) -> Requests:
    """Requests as (arrival_ms, input_tokens, output_tokens)."""
    arrival, inputs, outputs = zip(*rows, strict=True)
    return Requests(
        arrival_ms=np.array(arrival, dtype=np.float64),
        input_tokens=np.array(inputs, dtype=np.int64),
        output_tokens=np.array(outputs, dtype=np.int64),
    )


def step_by_step(
    system: ServingSystem, requests: Requests, options: SimulationOptions | None = None
) -> SimulationResult:
    """The same simulation with an event for every decode step."""
    options = replace(options or SimulationOptions(), is_fast_forward=False)
    return simulate(system, requests, options=options)


def assert_same_times(one: SimulationResult, two: SimulationResult) -> None:
    """Every time of every request agrees to 1e-9 relative, and so do the counters."""
    for name in ("arrival_ms", *TIMES):
        np.testing.assert_allclose(
            getattr(one, name), getattr(two, name), rtol=1e-9, atol=1e-9, err_msg=name
        )
    assert one.num_preemptions == two.num_preemptions
    np.testing.assert_array_equal(one.is_rejected, two.is_rejected)
    for mine, other in zip(one.replicas, two.replicas, strict=True):
        assert mine.num_decode_tokens == other.num_decode_tokens
        assert mine.num_prefill_tokens == other.num_prefill_tokens
        assert mine.num_decode_steps == other.num_decode_steps
        assert mine.num_mixed_steps == other.num_mixed_steps
        assert mine.num_mixed_tokens == other.num_mixed_tokens
        assert abs(mine.kv_peak_frac - other.kv_peak_frac) < 1e-9
        assert abs(mine.decode_busy_frac - other.decode_busy_frac) < 1e-9
        assert abs(mine.mixed_busy_frac - other.mixed_busy_frac) < 1e-9


def eighths(most: int, least: int = 0) -> st.SearchStrategy[float]:
    """Multiples of 1/8."""
    return st.integers(least, most).map(lambda n: n / 8.0)


@st.composite
def step_tables(draw: st.DrawFn) -> StepTable:
    """Tables with a bend in prefill and in both parts of decode; dyadic throughout."""
    prefill = sorted(draw(st.lists(eighths(80, least=1), min_size=3, max_size=3)))
    decode = sorted(draw(st.lists(eighths(40, least=1), min_size=3, max_size=3)))
    slope = [draw(st.integers(0, 16)) / 64.0 for _ in range(3)]
    measured = st.builds(
        MixedExtra,
        per_sq_token_ms=st.integers(-2, 4).map(lambda n: n / 64.0),
        batch=st.just((1.0, 5.0)),
        ms=st.tuples(eighths(8, least=-8), eighths(8, least=-8)),
        per_kv_token_ms=st.integers(-4, 8).map(lambda n: (n / 64.0, n / 64.0)),
    )
    return StepTable(
        prefill_tokens=(1.0, 9.0, 25.0),
        prefill_ms=tuple(prefill),
        prefill_per_sq_token_ms=draw(st.sampled_from([0.0, 1 / 64, 1 / 8])),
        decode_batch=(1.0, 3.0, 7.0),
        decode_ms=tuple(decode),
        decode_per_kv_token_ms=tuple(slope),
        mixed=draw(st.none() | measured),
    )


MAX_INPUT, MAX_OUTPUT = 24, 20


@st.composite
def batch_limits(draw: st.DrawFn, policies: tuple[Batching, ...]) -> BatchLimits:
    """Budgets from a few tokens, fewer than there are decodes, to ample."""
    policy = draw(st.sampled_from(policies))
    given: dict = {}
    if policy.cuts_prompts:
        given["chunk_tile_tokens"] = draw(st.sampled_from([1, 3, 8]))
        given["max_chunk_tokens"] = draw(st.sampled_from([None, 3, 10]))
        given["has_chunks_in_turn"] = draw(st.booleans())
        given["max_partial_prompts"] = draw(st.sampled_from([None, 1, 2]))
    given["max_step_prompts"] = draw(st.sampled_from([None, None, 1, 3]))
    is_reserved = policy.reserves_output or draw(st.sampled_from([False, False, True]))
    if is_reserved:
        given["reserved_output_tokens"] = draw(st.sampled_from([None, MAX_OUTPUT, 3]))
    if policy is Batching.REQUEST_LEVEL:
        given["is_batch_padded"] = draw(st.booleans())
    given["prompt_order"] = draw(st.sampled_from(PromptOrder))
    if given["prompt_order"] is not PromptOrder.FCFS:
        given["prompt_window"] = draw(st.sampled_from([1, 3, 16]))
    given["decode_admission"] = draw(st.sampled_from(DecodeAdmission))
    return BatchLimits(
        policy=policy,
        max_batch_tokens=draw(st.sampled_from([8, 30, 8192])),
        max_num_seqs=draw(st.sampled_from([1, 2, 5, 64])),
        is_output_reserved=is_reserved,
        graph_batch_sizes=draw(st.sampled_from([(), (), (1, 2, 4, 8), (3,)])),
        **given,
    )


@st.composite
def router_settings(draw: st.DrawFn) -> RouterSettings:
    """Forecasts of every kind, and limits that matter with such small requests."""
    return RouterSettings(
        forecast=draw(st.sampled_from([None, *Forecast])),
        bucket_tokens=draw(st.sampled_from([3, 8])),
        bucket_accuracy_frac=draw(st.sampled_from([0.0, 0.75, 1.0])),
        heavy_output_tokens=draw(st.sampled_from([0, 6])),
        decode_mix=draw(st.sampled_from(DecodeMix)),
        max_pending_tokens=draw(st.sampled_from([1, 30, 8192])),
        seed=draw(st.integers(0, 3)),
    )


@st.composite
def capped_limits(draw: st.DrawFn) -> BatchLimits:
    """Prefill first under a cap on the context of a decode step."""
    return BatchLimits(
        max_batch_tokens=draw(st.sampled_from([8, 30, 8192])),
        max_num_seqs=draw(st.sampled_from([1, 2, 5, 64])),
        max_step_context_tokens=draw(st.integers(10, 90)),
    )


@st.composite
def replicas(
    draw: st.DrawFn, phase: Phase, *, is_capped: bool, policies: tuple[Batching, ...]
) -> ServingReplica:
    """One to three stages; KV from just enough for any one request to ample."""
    if phase is not Phase.AGGREGATED:
        policies = tuple(p for p in policies if p is not Batching.REQUEST_LEVEL)
    block = draw(st.sampled_from([1, 2, 4, 16]))
    largest = -(-(MAX_INPUT + MAX_OUTPUT) // block)
    # From 100 blocks on the admission watermark is a block or more.
    blocks = draw(st.one_of(st.integers(largest, 2 * largest), st.integers(100, 400)))
    return ServingReplica(
        phase=phase,
        stages=tuple(draw(st.lists(step_tables(), min_size=1, max_size=3))),
        limits=draw(capped_limits() if is_capped else batch_limits(policies)),
        kv_capacity_tokens=blocks * block,
        kv_block_tokens=block,
    )


@st.composite
def kv_routes(
    draw: st.DrawFn, phases: list[Phase], routing: Routing = Routing.ROUND_ROBIN
) -> tuple:
    """All pairs; a route may cross a link that others cross as well."""
    routes = []
    is_shared = routing is Routing.FLOW_SHARES
    shares = st.integers(0, 4 * is_shared).map(lambda n: n / 64.0)
    for source, target in product(range(len(phases)), repeat=2):
        pair = (phases[source], phases[target])
        if source != target and pair in kv_phases(routing):
            names = draw(st.lists(st.sampled_from("ab"), unique=True, max_size=2))
            edges = tuple(
                EdgeShare(edge=name, ms_per_byte=draw(eighths(3))) for name in names
            )
            slowest = max([edge.ms_per_byte for edge in edges], default=0.0)
            routes.append(
                KvRoute(
                    source=source,
                    target=target,
                    latency_ms=draw(eighths(8)),
                    ms_per_byte=max(slowest, draw(eighths(3))),
                    edges=edges,
                    share_frac=draw(shares),
                )
            )
    return tuple(routes)


@st.composite
def kv_transfers(draw: st.DrawFn, routing: Routing) -> KvTransfer:
    """Serialized half the time; layer-wise for all prompts or the longer ones."""
    mode = draw(st.sampled_from([TransferMode.SERIALIZED, *TransferMode]))
    if routing is Routing.SPLITWISE:
        mode = TransferMode.SERIALIZED
    return KvTransfer(
        mode=mode,
        layer_wise_above_tokens=draw(st.integers(0, MAX_INPUT)),
        layer_wise_ms=draw(eighths(8)),
        block_ms=draw(st.sampled_from([0.0, 0.125])),
    )


@st.composite
def systems(
    draw: st.DrawFn,
    *,
    is_capped: bool = False,
    policies: tuple[Batching, ...] = (Batching.PREFILL_FIRST,),
    shapes: tuple[str, ...] = ("both", "disaggregated", "prefill", "decode"),
    routings: tuple[Routing, ...] = PLAIN_ROUTINGS,
) -> ServingSystem:
    """Disaggregated, one phase alone, or aggregated; one to three replicas a phase."""
    shape = draw(st.sampled_from(shapes))
    some = st.integers(1, 3)
    num_both = draw(some) if shape == "both" else 0
    num_prefill = draw(some) if shape in ("disaggregated", "prefill") else 0
    num_decode = draw(some) if shape in ("disaggregated", "decode") else 0
    # Replicas of a slice decode only what the slice prefilled.
    num_slices = draw(st.integers(1, min(num_prefill, num_decode) or 1))
    phases = [Phase.AGGREGATED] * num_both + [Phase.PREFILL] * num_prefill
    phases += [Phase.DECODE] * num_decode
    routing = draw(st.sampled_from(routings))
    return ServingSystem(
        replicas=tuple(
            replace(
                draw(replicas(phase, is_capped=is_capped, policies=policies)),
                slice=index % num_slices if phase is not Phase.AGGREGATED else 0,
            )
            for index, phase in enumerate(phases)
        ),
        routes=draw(kv_routes(phases, routing)),
        kv_bytes_per_token=draw(st.sampled_from([0.0, 0.25, 1.0])),
        routing=routing,
        router=draw(router_settings()),
        kv_transfer=draw(kv_transfers(routing)),
        num_layers=draw(st.sampled_from([1, 2, 4, 16])),
    )


CHUNKED = (Batching.CHUNKED, Batching.PREFILL_FIRST_CHUNKED, Batching.ORCA)


def any_system() -> st.SearchStrategy[ServingSystem]:
    """Replicas of any policies side by side, or under a cap on decode steps."""
    return st.booleans().flatmap(
        lambda is_capped: (
            systems(is_capped=True) if is_capped else systems(policies=tuple(Batching))
        )
    )


@st.composite
def many_requests(draw: st.DrawFn, max_size: int = 24) -> Requests:
    """Requests, often at the same time, some with a single output token."""
    gaps = st.one_of(st.just(0.0), eighths(16), eighths(400))
    rows = draw(
        st.lists(
            st.tuples(gaps, st.integers(1, MAX_INPUT), st.integers(1, MAX_OUTPUT)),
            min_size=1,
            max_size=max_size,
        )
    )
    clock = np.cumsum([row[0] for row in rows])
    return tiny_requests(
        *((at, i, o) for at, (_, i, o) in zip(clock, rows, strict=True))
    )
