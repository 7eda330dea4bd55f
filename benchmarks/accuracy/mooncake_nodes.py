"""Mooncake's nodes as the simulator sees them.

A node is a DGX A100 with Llama-2-70B on TP8 (fitted latencies) and four times 200
Gbit/s, of which KV caches get 87 GB/s, as Mooncake measured. It keeps 1 TB of KV cache
in host memory.
"""

from dataclasses import replace
from functools import lru_cache
from itertools import product
from typing import Any

from clusters.cluster import Cluster
from clusters.units import MS_PER_S
from models.latency.library import LatencyLibrary, LatencyRequest
from models.llm import LlmSpec
from models.memory import kv_bytes_per_token, memory_of
from models.parallelism import Parallelism
from planner.simulator.prefix_settings import CacheScope, PrefixCache
from planner.simulator.system import (
    EdgeShare,
    KvRoute,
    Phase,
    ServingReplica,
    ServingSystem,
)

NIC_BYTES_PER_S = 87e9
HOST_BYTES = 1e12
NUM_NODES = 16

LOCAL = PrefixCache(capacity_bytes=HOST_BYTES, load_bytes_per_s=NIC_BYTES_PER_S)
COPYING = replace(LOCAL, fetch_bytes_per_s=NIC_BYTES_PER_S)
SHARED = replace(LOCAL, capacity_bytes=HOST_BYTES * NUM_NODES, scope=CacheScope.GLOBAL)


@lru_cache
def node(phase: Phase) -> ServingReplica:
    """Llama-2-70B on the eight A100 of a node."""
    llm, parallelism = LlmSpec.load("llama-2-70b"), Parallelism(tp=8)
    topology = Cluster.load("two_nodes_a100").topology
    gpu = topology.gpus[0].type
    links = topology.group_links([list(range(8))])
    request = LatencyRequest(llm=llm, parallelism=parallelism, gpu=gpu, links=links)
    return ServingReplica(
        phase=phase,
        stages=LatencyLibrary.default().choose(request).stages,
        kv_capacity_tokens=memory_of(llm, parallelism, gpu).max_kv_tokens,
    )


def serving_system(
    num_prefill: int, num_decode: int, cache: PrefixCache | None, **given: Any
) -> ServingSystem:
    """Nodes of either phase; a KV cache crosses the NICs of both ends."""
    ms_per_byte = MS_PER_S / NIC_BYTES_PER_S
    prefill = replace(node(Phase.PREFILL), prefix_cache=cache)
    return ServingSystem(
        replicas=(prefill,) * num_prefill + (node(Phase.DECODE),) * num_decode,
        routes=tuple(
            KvRoute(
                source=source,
                target=target,
                latency_ms=1.0,
                ms_per_byte=ms_per_byte,
                edges=tuple(
                    EdgeShare(edge=f"{way}{index}", ms_per_byte=ms_per_byte)
                    for way, index in (("out", source), ("in", target))
                ),
            )
            for source, target in product(
                range(num_prefill), range(num_prefill, num_prefill + num_decode)
            )
        ),
        kv_bytes_per_token=kv_bytes_per_token(LlmSpec.load("llama-2-70b")),
        **given,
    )
