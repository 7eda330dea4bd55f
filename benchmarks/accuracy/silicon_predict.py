"""Predicting a measured serving run: its replicas, its clients, one simulation.

Steps
    1. Replicas of the row's configuration: step tables of the engine's fitted
       operators, and the KV cache that the engine's memory fraction leaves.
    2. Clients as the harness has them: all at once, one request each at a time, ten
       in all for each, lengths uniform in 80-100 % of nominal (the nominal ones in
       runs of other harnesses), end of sequence ignored.
    3. The closed loop is simulated to its end; the mean TTFT includes the handling of
       a request that no step explains.
"""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from silicon_launch import Launch, launch_of
from silicon_rows import NODE_GPUS, Pool, Row
from step_latency import ring_of

from clusters.fields import InputError
from clusters.gpu import Dtype, GpuType
from clusters.links import GroupLink, GroupLinks, LinkKind
from clusters.units import MS_PER_S
from models.flops import stage_shapes
from models.latency.fitted import FittedSource
from models.latency.request import LatencyRequest, LatencyUnavailableError
from models.latency.step_table import StepTable
from models.llm import LlmSpec
from models.memory import MemorySettings, kv_bytes
from models.parallelism import Parallelism
from models.shapes import StageShapes
from planner.engine_overheads import engine_table
from planner.engines import OverheadFit
from planner.simulator.build import SimulationOptions
from planner.simulator.outcome import FloatArray, SimulationResult
from planner.simulator.simulate import simulate
from planner.simulator.system import (
    BatchLimits,
    KvRoute,
    Phase,
    ServingReplica,
    ServingSystem,
)
from planner.workload.requests import IntArray, Requests

REQUESTS_PER_CLIENT = 10
SHORTEST_FRAC = 0.8
"""The public harness draws lengths from this share of nominal upwards."""
MAX_MEMORY_TOKENS = 16384
"""Most tokens of a step whose activations are kept apart: engines profile one batch."""
NIC_BYTES_PER_S = 50e9
"""400 Gbit/s for each GPU, as the measured machines have."""
NIC_LATENCY_MS = 0.005
KV_LINK_FRAC = 0.8
"""Share of a link's rate that KV transfers reach (the planner's default)."""
NVL72 = frozenset({"gb200", "gb300"})


@dataclass(frozen=True, kw_only=True)
class Instances:
    """Equal replicas of one phase, before the engine adds anything."""

    phase: Phase
    num: int
    tables: tuple[StepTable, ...]
    stages: tuple[StageShapes, ...]
    limits: BatchLimits
    kv_tokens: int
    block_tokens: int


@dataclass(frozen=True, kw_only=True)
class Case:
    """A row ready to be simulated with any constants."""

    row: Row
    launch: Launch
    gpu: GpuType
    concurrency: int
    instances: tuple[Instances, ...]
    kv_bytes_per_token: float
    route_bytes_per_s: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Mean latencies of a simulated run."""

    ttft_ms: float
    tpot_ms: float


def case_of(row: Row) -> Case:
    """What to simulate for `row`.

    Raises
    ------
    InputError, LatencyUnavailableError
        When the row or its configuration is not covered, with the reason.
    """
    if row.problem:
        raise InputError("row", row.id, row.problem)
    assert row.pools is not None
    assert row.concurrency is not None
    launch = launch_of(row, row.concurrency)
    llm = llm_of(row.model_path, row.gemm_quant or row.moe_quant, launch.kv)
    gpu = GpuType.load(row.system)
    phases = (
        (Phase.AGGREGATED,) if len(row.pools) == 1 else (Phase.PREFILL, Phase.DECODE)
    )
    instances = tuple(
        _instances(row, launch, llm, gpu, pool, phase)
        for pool, phase in zip(row.pools, phases, strict=True)
    )
    return Case(
        row=row,
        launch=launch,
        gpu=gpu,
        concurrency=row.concurrency,
        instances=instances,
        kv_bytes_per_token=kv_bytes(llm, row.input_tokens) / row.input_tokens,
        route_bytes_per_s=_route_bytes_per_s(row, gpu),
    )


def predict(case: Case, fit: OverheadFit) -> Prediction:
    """Mean TTFT and TPOT of the run with an engine's constants."""
    return handled(simulated(case, fit), case, fit)


def handled(found: Prediction, case: Case, fit: OverheadFit) -> Prediction:
    """`found` by steps alone, with the handling of requests around them."""
    # The clients of a disaggregated deployment are spread over several servers.
    clients = case.concurrency if case.row.mode == "agg" else 0
    return replace(found, ttft_ms=found.ttft_ms + fit.overheads.handling_ms(clients))


def simulated(case: Case, fit: OverheadFit) -> Prediction:
    """The same without the handling of requests outside their steps."""
    system = _system(case, fit)
    row, clients = case.row, case.concurrency
    lengths = lengths_of(
        row.input_tokens, row.output_tokens, clients, row.is_public_run
    )
    requests = Requests(
        arrival_ms=np.zeros(len(lengths[0])),
        input_tokens=lengths[0],
        output_tokens=lengths[1],
    )
    tokens_per_step = fit.overheads.tokens_per_step(case.launch.draft_tokens)
    step_ms = tokens_per_step * _decode_token_ms(system, case)
    hold_ms = case.launch.hold_steps * step_ms
    options = SimulationOptions(
        concurrency=clients, hold_ms=hold_ms, poll_ms=case.launch.poll_steps * step_ms
    )
    result = simulate(system, requests, options=options)
    done = result.is_done
    if not done.any():
        raise InputError("kv_cache", row.id, "room for one request")
    ttft_ms = (result.first_token_ms - _sent_ms(result, clients))[done]
    tpot_ms = result.tpot_ms[done & (result.output_tokens > 1)]
    if not len(tpot_ms):
        raise InputError("osl", row.output_tokens, "answers of two tokens at least")
    return Prediction(ttft_ms=float(ttft_ms.mean()), tpot_ms=float(tpot_ms.mean()))


@cache
def llm_of(model_path: str, weights: str, kv: Dtype) -> LlmSpec:
    """The model in its released checkpoint of that number format."""
    llm = LlmSpec.load(model_path)
    have = (llm.precision.experts if llm.moe else llm.precision.mlp).compute_dtype
    wanted = {"fp8": Dtype.FP8, "fp8_block": Dtype.FP8, "nvfp4": Dtype.FP4}.get(weights)
    # gpt-oss comes in MXFP4 only, whatever the file calls it.
    if wanted is not None and have is not wanted and "gpt-oss" not in model_path:
        path = model_path if wanted is Dtype.FP8 else f"nvidia/{_name(model_path)}"
        llm = LlmSpec.load(path + ("-FP8" if wanted is Dtype.FP8 else "-NVFP4"))
    return llm.with_kv_dtype(kv)


@cache
def lengths_of(
    input_tokens: int, output_tokens: int, clients: int, is_public_run: bool
) -> tuple[IntArray, IntArray]:
    """Lengths of all requests of a run."""
    num = REQUESTS_PER_CLIENT * clients
    if not is_public_run:
        return np.full(num, input_tokens), np.full(num, output_tokens)
    rng = np.random.default_rng(0)
    return (
        rng.integers(int(SHORTEST_FRAC * input_tokens), input_tokens + 1, num),
        rng.integers(int(SHORTEST_FRAC * output_tokens), output_tokens + 1, num),
    )


def _name(model_path: str) -> str:
    return model_path.rsplit("/", 1)[-1]


def _instances(
    row: Row, launch: Launch, llm: LlmSpec, gpu: GpuType, pool: Pool, phase: Phase
) -> Instances:
    parallelism = pool.parallelism
    if launch.spreads_experts and parallelism.num_ranks == 1:
        parallelism = replace(parallelism, ep=parallelism.tp)
    if llm.moe is None and parallelism.ep > 1:
        parallelism = Parallelism(tp=parallelism.tp, pp=parallelism.pp)
    why_not = parallelism.why_not(llm)
    if why_not:
        raise LatencyUnavailableError(why_not)
    ranks = parallelism.attention_dp
    limits = launch.preset.limits(gpu, num_ranks=ranks)
    settings = MemorySettings(
        max_batch_tokens=min(limits.max_batch_tokens // ranks, MAX_MEMORY_TOKENS),
        max_batch_requests=min(limits.max_num_seqs, row.concurrency or 1),
        mean_context_tokens=row.input_tokens + row.output_tokens,
    )
    memory = launch.preset.memory(llm, parallelism, gpu, settings)
    if not memory.fits:
        raise InputError("memory", str(parallelism), str(memory.why_not))
    return Instances(
        phase=phase,
        num=pool.num_instances,
        tables=_tables(row, launch, llm, gpu, parallelism),
        stages=stage_shapes(llm, parallelism),
        limits=replace(
            limits, max_num_seqs=min(limits.max_num_seqs, row.concurrency or 1)
        ),
        kv_tokens=memory.max_kv_tokens,
        block_tokens=launch.preset.block_tokens,
    )


def _tables(
    row: Row, launch: Launch, llm: LlmSpec, gpu: GpuType, parallelism: Parallelism
) -> tuple[StepTable, ...]:
    ring = ring_of(row.system, row.engine, gpu)
    stage = ring
    if parallelism.gpus_per_stage > NODE_GPUS and row.system not in NVL72:
        # A ring leaves a node through all its NICs; ranks that send for themselves
        # share them.
        stage = GroupLink(
            bytes_per_s=NODE_GPUS * NIC_BYTES_PER_S,
            latency_ms=NIC_LATENCY_MS,
            kind=LinkKind.NETWORK,
            sharers=NODE_GPUS,
        )
    has_ranks = parallelism.num_ranks > 1
    inner = ring if parallelism.tp <= NODE_GPUS else stage
    pp = parallelism.pp
    request = LatencyRequest(
        llm=llm,
        parallelism=parallelism,
        gpu=gpu,
        links=GroupLinks(
            tp=(stage,) * pp,
            pp=(stage,) * (pp - 1),
            inner=(inner,) * pp if has_ranks else (),
        ),
        prompt_tokens=float(row.input_tokens) if has_ranks else None,
    )
    source = FittedSource(
        engine=row.engine,
        step_overhead_ms=0.0,
        best_kernels=True,
        experts_of=launch.experts_of,
        experts_variant=launch.experts_variant,
    )
    why_not = source.why_not_pair(llm, gpu)
    if why_not:
        raise LatencyUnavailableError(why_not)
    return source.compile(request)


def _route_bytes_per_s(row: Row, gpu: GpuType) -> float:
    """Rate of a KV transfer: every GPU pair has a link of its own."""
    assert row.pools is not None
    pairs = min(pool.parallelism.num_gpus for pool in row.pools)
    link = gpu.nvlink_bytes_per_s if row.system in NVL72 else NIC_BYTES_PER_S
    # A prompt is on one rank, and its latent cache is the same on all GPUs of it.
    ranks = max(pool.parallelism.attention_dp for pool in row.pools)
    return KV_LINK_FRAC * link * max(1, pairs // ranks)


def _system(case: Case, fit: OverheadFit) -> ServingSystem:
    replicas: list[ServingReplica] = []
    for each in case.instances:
        stages = tuple(
            engine_table(
                table,
                stage,
                fit.overheads,
                fit.skew(case.gpu),
                case.launch.captured,
                case.launch.draft_tokens,
                prefill_graph_tokens=case.launch.prefill_graph_tokens,
            )
            for table, stage in zip(each.tables, each.stages, strict=True)
        )
        replica = ServingReplica(
            phase=each.phase,
            stages=stages,
            limits=each.limits,
            kv_capacity_tokens=each.kv_tokens,
            kv_block_tokens=each.block_tokens,
        )
        replicas += [replica] * each.num
    sources = [i for i, r in enumerate(replicas) if r.phase is Phase.PREFILL]
    targets = [i for i, r in enumerate(replicas) if r.phase is Phase.DECODE]
    return ServingSystem(
        replicas=tuple(replicas),
        routes=tuple(
            KvRoute(
                source=source,
                target=target,
                latency_ms=0.0,
                ms_per_byte=MS_PER_S / case.route_bytes_per_s,
            )
            for source in sources
            for target in targets
        ),
        kv_bytes_per_token=case.kv_bytes_per_token,
    )


def _sent_ms(result: SimulationResult, clients: int) -> FloatArray:
    """When each request was sent: the first at once, then one as another ends."""
    sent = np.zeros(result.num_arrived)
    sent[clients:] = np.sort(result.finish_ms)[: result.num_arrived - clients]
    return sent


def _decode_token_ms(system: ServingSystem, case: Case) -> float:
    """A decode step of all clients at their mean context, for each token of it."""
    row = case.row
    context = row.input_tokens + row.output_tokens / 2.0
    stage = system.replicas[-1].stages[-1]
    return stage.decode_step_ms(case.concurrency, case.concurrency * context)
