"""Systems of `benchmarks/speed.py`: every way of routing, sending and caching.

Each is four prefill and six decode replicas of OPT-13B unless it says otherwise, and
serves the requests of the Azure conversation trace.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from clusters.units import MS_PER_S
from planner.simulator.control import DecodeAdmission, PromptOrder
from planner.simulator.prefix_settings import (
    AdmissionRule,
    CacheScope,
    EarlyRejection,
    PrefixCache,
)
from planner.simulator.system import (
    Batching,
    BatchLimits,
    EdgeShare,
    KvRoute,
    Phase,
    Routing,
    ServingReplica,
    ServingSystem,
)
from planner.simulator.transfer_settings import KvTransfer, LinkSharing, TransferMode
from planner.workload.prefix_blocks import PrefixBlocks
from planner.workload.requests import Requests

NIC_BYTES_PER_S = 25e9  # 200 Gbit/s, one direction
NUM_PREFILL, NUM_DECODE = 4, 6
NUM_STAGES = 4
BLOCK_TOKENS = 512
NUM_SHARED, NUM_FAMILIES = 2, 100
"""Prompts of a hundred families begin with the same two blocks."""
CACHE_TOKENS = 2_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyCase:
    """A system, and what is done to the requests of the trace before."""

    system: Callable[[ServingReplica], ServingSystem]
    prepare: Callable[[Requests], Requests] = lambda requests: requests


def routes_over_nics(pairs: Iterable[tuple[int, int]]) -> tuple[KvRoute, ...]:
    """Routes between replicas with a NIC each: a KV cache crosses both ends' NICs."""
    ms_per_byte = MS_PER_S / NIC_BYTES_PER_S
    return tuple(
        KvRoute(
            source=source,
            target=target,
            latency_ms=0.01,
            ms_per_byte=ms_per_byte,
            edges=tuple(
                EdgeShare(edge=f"nic{index}", ms_per_byte=ms_per_byte)
                for index in (source, target)
            ),
        )
        for source, target in pairs
    )


def split_system(one: ServingReplica, **changes: object) -> ServingSystem:
    """Replicas with a NIC each; a KV cache crosses the NICs of both ends."""
    everyone = range(NUM_PREFILL + NUM_DECODE)
    phases = [Phase.PREFILL] * NUM_PREFILL + [Phase.DECODE] * NUM_DECODE
    is_mixed = changes.get("routing") is Routing.SPLITWISE
    pairs = [
        (source, target)
        for source, target in product(everyone, everyone)
        if source != target
        and (is_mixed or phases[source] is Phase.PREFILL is not phases[target])
        and (phases[source], phases[target]) != (Phase.DECODE, Phase.PREFILL)
    ]
    return ServingSystem(
        replicas=tuple(replace(one, phase=phase) for phase in phases),
        routes=routes_over_nics(pairs),
        kv_bytes_per_token=819_200.0,
        num_layers=40,
        **changes,  # type: ignore[arg-type]
    )


def shared_out(one: ServingReplica) -> ServingSystem:
    """Every route with the same planned share of the requests."""
    system = split_system(one, routing=Routing.FLOW_SHARES)
    share = 1.0 / len(system.routes)
    routes = tuple(replace(route, share_frac=share) for route in system.routes)
    return replace(system, routes=routes)


def sent(
    mode: TransferMode, sharing: LinkSharing = LinkSharing.FIRST_COME
) -> KvTransfer:
    """Transfers of one kind."""
    return KvTransfer(mode=mode, sharing=sharing)


def tetriinfer(one: ServingReplica) -> ServingSystem:
    """Prefill chunks of 512, shortest first in windows of 16, dynamic reservations."""
    limits = BatchLimits(
        policy=Batching.PREFILL_FIRST_CHUNKED,
        max_batch_tokens=512,
        prompt_order=PromptOrder.SHORTEST_FIRST,
        prompt_window=16,
        decode_admission=DecodeAdmission.RESERVE_DYNAMIC,
    )
    one = replace(one, limits=limits)
    return split_system(one, routing=Routing.TETRIINFER)


def pipeline(one: ServingReplica) -> ServingSystem:
    """Chunks of prompts on four stages of a replica that does both."""
    (table,) = one.stages
    limits = BatchLimits(policy=Batching.CHUNKED, max_batch_tokens=512)
    both = replace(
        one,
        phase=Phase.AGGREGATED,
        stages=(table.scaled(1.0 / NUM_STAGES),) * NUM_STAGES,
        limits=limits,
        kv_capacity_tokens=NUM_STAGES * one.kv_capacity_tokens,
    )
    return ServingSystem(replicas=(both,), kv_bytes_per_token=0.0)


def cached(one: ServingReplica, cache: PrefixCache, **changes: object) -> ServingSystem:
    """Prefill replicas with a prefix cache."""
    system = split_system(one, **changes)
    replicas = tuple(
        each if each.phase is Phase.DECODE else replace(each, prefix_cache=cache)
        for each in system.replicas
    )
    return replace(system, replicas=replicas)


def with_prefixes(requests: Requests) -> Requests:
    """The requests, with the blocks of their prompts named."""
    counts = -(-requests.input_tokens // BLOCK_TOKENS)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    request = np.repeat(np.arange(len(requests)), counts)
    block = np.arange(offsets[-1]) - offsets[request]
    family = (request * 7919) % NUM_FAMILIES
    shared = family * NUM_SHARED + block
    own = NUM_FAMILIES * NUM_SHARED + np.arange(offsets[-1])
    ids = np.where(block < NUM_SHARED, shared, own).astype(np.int64)
    blocks = PrefixBlocks(
        ids=ids, offsets=offsets.astype(np.int64), block_tokens=BLOCK_TOKENS
    )
    return replace(requests, prefix_blocks=blocks)


LOCAL = PrefixCache(capacity_tokens=CACHE_TOKENS, fetch_bytes_per_s=NIC_BYTES_PER_S)
GLOBAL = PrefixCache(capacity_tokens=CACHE_TOKENS, scope=CacheScope.GLOBAL)
REJECTION = EarlyRejection(
    rule=AdmissionRule.PREDICTED, ttft_ms=1e6, tbt_ms=1e6, decode_ms=10_000.0
)

CASES = {
    "disaggregated": PolicyCase(system=split_system),
    "layer_wise": PolicyCase(
        system=lambda one: split_system(one, kv_transfer=sent(TransferMode.LAYER_WISE))
    ),
    "by_size": PolicyCase(
        system=lambda one: split_system(one, kv_transfer=sent(TransferMode.BY_SIZE))
    ),
    "fair_links": PolicyCase(
        system=lambda one: split_system(
            one, kv_transfer=sent(TransferMode.SERIALIZED, LinkSharing.FAIR)
        )
    ),
    "splitwise": PolicyCase(
        system=lambda one: split_system(one, routing=Routing.SPLITWISE)
    ),
    "tetriinfer": PolicyCase(system=tetriinfer),
    "flow_shares": PolicyCase(system=shared_out),
    "chunked_pipeline": PolicyCase(system=pipeline),
    "prefix_cache_global": PolicyCase(
        system=lambda one: cached(one, GLOBAL), prepare=with_prefixes
    ),
    "mooncake": PolicyCase(
        system=lambda one: cached(
            one, LOCAL, routing=Routing.CACHE_AWARE, early_rejection=REJECTION
        ),
        prepare=with_prefixes,
    ),
}
"""Beside the batching policies; limits of early rejection that refuse nobody."""
