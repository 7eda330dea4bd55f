"""TetriInfer's parts one by one: which way each moves latency, and interference.

    python benchmarks/accuracy/tetriinfer.py [--format json]

OPT-13B on A100-80 with DistServe's published latencies; half of the prompts are light
(below 512 tokens, the others to 1536), and half of the answers (below 100 tokens, the
others 200 to 1000). Two prefill and four decode replicas. Every figure is the mean of
ten seeds.

* `dispatch`: who decodes a request;
* `order`: how a window of 16 prompts is sorted, with one prefill replica;
* `admission`: when a decode replica fetches a request, with a third of the KV cache;
* `colocated`: the same six GPUs, prefill first, against TetriInfer's parts together;
* `end_to_end`: one replica that does both against 1P1D, 128 requests at once, by class
  of prompts and answers, by the places to decode of the first and of the second;
* `interference`: steps of the latency model beside the slowdowns that the paper
  measured on another GPU. Reported, not compared.
"""

import argparse
import json
import sys
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from clusters.cluster import Cluster
from models.latency.library import LatencyLibrary, LatencyRequest
from models.latency.step_table import StepTable
from models.llm import LlmSpec
from models.memory import kv_bytes_per_token, memory_of
from models.parallelism import Parallelism
from planner.simulator.control import (
    DecodeAdmission,
    DecodeMix,
    PromptOrder,
    RouterSettings,
)
from planner.simulator.simulate import simulate
from planner.simulator.system import (
    Batching,
    BatchLimits,
    KvRoute,
    Phase,
    Routing,
    ServingReplica,
    ServingSystem,
)
from planner.workload.requests import Requests

NUM_SEEDS = 10
NUM_REQUESTS = 4000
GAP_MS = 170.0
NVLINK_MS_PER_BYTE = 1e3 / 300e9
CHUNK_TOKENS = 512
NUM_AT_ONCE = 128
PLACES = ((16, 16), (16, 32), (16, 48), (16, 256), (64, 256), (256, 256))
"""Requests at a time of the replica that does both, and of the one that decodes."""
FIGURES = ("ttft_mean", "ttft_p90", "tpot_p90", "tpot_p99", "e2e_mean", "preemptions")


def opt_13b() -> tuple[StepTable, int, float]:
    """Step latencies, KV tokens and KV bytes of a token on one A100-80."""
    llm, topology = LlmSpec.load("opt-13b"), Cluster.load("a100_1x4").topology
    gpu = topology.gpus[0].type
    request = LatencyRequest(
        llm=llm, parallelism=Parallelism(), gpu=gpu, links=topology.group_links([[0]])
    )
    (table,) = (
        LatencyLibrary.default()
        .with_sources("published-distserve")
        .choose(request)
        .stages
    )
    tokens = memory_of(llm, Parallelism(), gpu).max_kv_tokens
    return table, tokens, kv_bytes_per_token(llm)


def mixed_requests(seed: int) -> Requests:
    """Light and heavy prompts and answers in equal parts, Poisson arrivals."""
    rng = np.random.default_rng(seed)
    heavy_prompt, heavy_answer = rng.random((2, NUM_REQUESTS)) < 0.5
    return Requests(
        arrival_ms=np.cumsum(rng.exponential(GAP_MS, size=NUM_REQUESTS)),
        input_tokens=np.where(
            heavy_prompt,
            rng.integers(512, 1536, size=NUM_REQUESTS),
            rng.integers(16, 512, size=NUM_REQUESTS),
        ),
        output_tokens=np.where(
            heavy_answer,
            rng.integers(200, 1000, size=NUM_REQUESTS),
            rng.integers(2, 100, size=NUM_REQUESTS),
        ),
    )


def split_system(
    routing: Routing,
    *,
    prefill: BatchLimits | None = None,
    admission: DecodeAdmission = DecodeAdmission.GREEDY,
    kv_share: float = 1.0,
    num_prefill: int = 2,
    **router: Any,
) -> ServingSystem:
    """Prefill replicas, two unless told otherwise, and four decode replicas."""
    table, tokens, kv_bytes = opt_13b()
    limits = prefill or BatchLimits(
        policy=Batching.PREFILL_FIRST_CHUNKED, max_batch_tokens=CHUNK_TOKENS
    )
    sources = [
        ServingReplica(
            phase=Phase.PREFILL,
            stages=(table,),
            limits=limits,
            kv_capacity_tokens=tokens,
        )
    ] * num_prefill
    targets = [
        ServingReplica(
            phase=Phase.DECODE,
            stages=(table,),
            limits=BatchLimits(decode_admission=admission),
            kv_capacity_tokens=int(tokens * kv_share),
        )
    ] * 4
    routes = tuple(
        KvRoute(source=i, target=j, latency_ms=0.1, ms_per_byte=NVLINK_MS_PER_BYTE)
        for i, j in product(range(num_prefill), range(num_prefill, num_prefill + 4))
    )
    return ServingSystem(
        replicas=(*sources, *targets),
        routes=routes,
        kv_bytes_per_token=kv_bytes,
        routing=routing,
        router=RouterSettings(**router),
    )


def colocated_system() -> ServingSystem:
    """Six replicas that do both, prefill first."""
    table, tokens, kv_bytes = opt_13b()
    replica = ServingReplica(
        phase=Phase.AGGREGATED, stages=(table,), kv_capacity_tokens=tokens
    )
    return ServingSystem(
        replicas=(replica,) * 6,
        kv_bytes_per_token=kv_bytes,
        routing=Routing.SHORTEST_QUEUE,
    )


def measure(system: ServingSystem) -> dict[str, float]:
    """Means of all figures over the seeds, in ms (preemptions: a count)."""
    rows = []
    for seed in range(NUM_SEEDS):
        seeded = replace(system, router=replace(system.router, seed=seed))
        result = simulate(seeded, mixed_requests(seed))
        assert result.num_done == NUM_REQUESTS
        rows.append(
            [
                float(result.ttft_ms.mean()),
                result.percentile_ms("ttft", 90),
                result.percentile_ms("tpot", 90),
                result.percentile_ms("tpot", 99),
                float(result.e2e_ms.mean()),
                float(result.num_preemptions),
            ]
        )
    means = np.mean(rows, axis=0)
    return {name: float(value) for name, value in zip(FIGURES, means, strict=True)}


def dispatch() -> dict[str, dict[str, float]]:
    """Who decodes: by turns, by chance, by queues, by the mix."""
    plain = (
        Routing.ROUND_ROBIN,
        Routing.RANDOM,
        Routing.POWER_OF_TWO,
        Routing.SHORTEST_QUEUE,
    )
    found = {f"{routing}": measure(split_system(routing)) for routing in plain}
    for accuracy in (0.749, 1.0):
        for mix in DecodeMix:
            system = split_system(
                Routing.TETRIINFER, bucket_accuracy_frac=accuracy, decode_mix=mix
            )
            found[f"tetriinfer {mix} {accuracy:g}"] = measure(system)
    return found


def order() -> dict[str, dict[str, float]]:
    """Windows of 16 prompts, in chunks of 512."""
    found = {}
    for name in PromptOrder:
        limits = BatchLimits(
            policy=Batching.PREFILL_FIRST_CHUNKED,
            max_batch_tokens=CHUNK_TOKENS,
            prompt_order=name,
        )
        system = split_system(Routing.TETRIINFER, prefill=limits, num_prefill=1)
        found[f"{name}"] = measure(system)
    return found


def admission() -> dict[str, dict[str, float]]:
    """Rules by which a decode replica with little memory fetches."""
    return {
        f"{rule}": measure(
            split_system(Routing.TETRIINFER, admission=rule, kv_share=1 / 3)
        )
        for rule in DecodeAdmission
    }


def end_to_end() -> dict[str, dict[str, float]]:
    """Changes of mean TTFT, mean E2E and GPU time from one replica to 1P1D."""
    found = {}
    for places, prompts, answers in product(PLACES, *[("light", "heavy")] * 2):
        rows = [
            changes(*places, requests_of(prompts, answers, seed))
            for seed in range(NUM_SEEDS)
        ]
        means = np.mean(rows, axis=0)
        together, apart = places
        name = f"{together} and {apart} places, {prompts} prompts, {answers} answers"
        found[name] = {
            name: float(value)
            for name, value in zip(("ttft", "e2e", "gpu_time"), means, strict=True)
        }
    return found


def requests_of(prompts: str, answers: str, seed: int) -> Requests:
    """Requests of one class, all there at the start."""
    rng = np.random.default_rng(seed)
    given = {"light": (16, 512), "heavy": (512, 1536)}[prompts]
    made = {"light": (2, 100), "heavy": (200, 1000)}[answers]
    return Requests(
        arrival_ms=np.zeros(NUM_AT_ONCE),
        input_tokens=rng.integers(*given, size=NUM_AT_ONCE),
        output_tokens=rng.integers(*made, size=NUM_AT_ONCE),
    )


def changes(
    together: int, apart: int, requests: Requests
) -> tuple[float, float, float]:
    """Relative changes; a GPU of 1P1D is paid for while its phase has work."""
    chunks = BatchLimits(
        policy=Batching.PREFILL_FIRST_CHUNKED,
        max_batch_tokens=CHUNK_TOKENS,
        prompt_order=PromptOrder.SHORTEST_FIRST,
    )
    split = split_system(Routing.TETRIINFER, prefill=chunks, num_prefill=1)
    split = replace(split, replicas=split.replicas[:2], routes=split.routes[:1])
    systems = [
        replace(
            system,
            replicas=tuple(
                replace(r, limits=replace(r.limits, max_num_seqs=places))
                for r in system.replicas[: 2 if system is split else 1]
            ),
        )
        for system, places in ((colocated_system(), together), (split, apart))
    ]
    one, two = (simulate(system, requests) for system in systems)
    spent_ms = float(np.nanmax(two.first_token_ms)) + (
        two.end_ms - float(np.nanmin(two.decode_ready_ms))
    )
    return (
        float(two.ttft_ms.mean() / one.ttft_ms.mean()) - 1.0,
        float(two.e2e_ms.mean() / one.e2e_ms.mean()) - 1.0,
        spent_ms / one.end_ms - 1.0,
    )


def interference() -> dict[str, dict[str, float]]:
    """Slowdowns of a step by what runs beside, with what the paper measured."""
    table, _, _ = opt_13b()
    light_prompt, heavy_prompt, num = 18, 512, 8
    alone = table.prefill_step_ms([light_prompt])
    beside_heavy = table.prefill_step_ms([light_prompt] + [heavy_prompt] * (num - 1))
    context = 100 * num
    decode = table.decode_step_ms(num, context)
    with_prompt = table.mixed_step_ms([heavy_prompt], None, num, context)
    light = table.decode_step_ms(128, 128 * 100)
    half_heavy = table.decode_step_ms(128, 64 * 100 + 64 * 600)
    return {
        "prefill beside 7 heavy prefills": {
            "slowdown": beside_heavy / alone,
            "paper": 10.0,
        },
        "decode beside a heavy prefill": {
            "slowdown": with_prompt / decode,
            "paper": 5.0,
        },
        "decode with half of 128 heavy": {
            "slowdown": half_heavy / light,
            "paper": 1.23,
        },
    }


def main() -> int:
    """Print every part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--format", choices=("table", "json"), default="table")
    args = parser.parse_args()
    sorted_chunks = BatchLimits(
        policy=Batching.PREFILL_FIRST_CHUNKED,
        max_batch_tokens=CHUNK_TOKENS,
        prompt_order=PromptOrder.SHORTEST_FIRST,
    )
    parts = {
        "dispatch": dispatch(),
        "order": order(),
        "admission": admission(),
        "colocated": {
            "six prefill first": measure(colocated_system()),
            "tetriinfer 2P4D": measure(
                split_system(Routing.TETRIINFER, prefill=sorted_chunks)
            ),
        },
    }
    if args.format == "json":
        others = {"end_to_end": end_to_end(), "interference": interference()}
        print(json.dumps({**parts, **others}, indent=2))
        return 0
    for part, rows in parts.items():
        print(f"{part:32} " + " ".join(f"{name:>11}" for name in FIGURES))
        for name, row in rows.items():
            print(f"  {name:30} " + " ".join(f"{row[f]:11.1f}" for f in FIGURES))
    for name, row in end_to_end().items():
        print(f"  {name:40} " + " ".join(f"{k} {v:+.0%}" for k, v in row.items()))
    for name, row in interference().items():
        print(f"  {name:34} {row['slowdown']:6.2f} paper {row['paper']:g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
