"""Every batching policy on one workload and the same GPUs, and where the order flips.

Llama-3.1-70B on one HGX H100 node of eight GPUs, lengths like the Azure conversation
trace. Each policy has the best of three splits of the node into equal replicas (TP2,
TP4, TP8), the chunked ones with their best token budget; disaggregation has the best
ratio of its replicas, prefill with the best batch. What changes in a sweep is one thing
at a time: the limit on TPOT or TTFT, the lengths, the rate of the links that carry the
KV cache.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from clusters.cluster import Cluster
from models.latency.library import LatencyLibrary
from models.llm import LlmSpec
from models.parallelism import Parallelism
from planner.deployment import Deployment, ReplicaShape
from planner.evaluate import Evaluator
from planner.problem import EngineSettings, Problem, Service
from planner.search.chunk_budget import (
    best_chunk_budget,
    limits_of_policy,
    with_limits,
)
from planner.serving import Planner
from planner.simulator.system import Batching, Phase
from planner.slo import Slo
from planner.workload.workload import Workload

LLM = "llama-3.1-70b"
LENGTHS = "azure-conversation-like"
WIDTHS = (2, 4, 8)
TTFT_MS, TPOT_MS = 1000.0, 50.0
NUM_GPUS = 8
LINK_GB_PER_S = 450.0
"""NVLink of an H100, one way; a TP4 replica sends over four of them."""
SPLIT = "disaggregated"
POLICIES = (*(str(policy) for policy in Batching), SPLIT)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One setting of the comparison."""

    ttft_ms: float = TTFT_MS
    tpot_ms: float = TPOT_MS
    lengths: str = LENGTHS
    link_frac: float = 0.8

    def problem(self) -> Problem:
        """The planner's problem."""
        pair = Cluster.load("two_nodes_h100")
        return Problem(
            cluster=replace(pair, nodes=pair.nodes[:1]),
            services=(
                Service(
                    llm=LlmSpec.load(LLM),
                    workload=Workload.poisson(rate_rps=1.0, lengths=self.lengths),
                    slo=Slo(
                        ttft_ms=self.ttft_ms, tpot_ms=self.tpot_ms, attainment_frac=0.9
                    ),
                ),
            ),
            engine=EngineSettings(kv_link_efficiency_frac=self.link_frac),
        )


@dataclass(frozen=True, kw_only=True)
class Row:
    """The best of one policy."""

    case: str
    policy: str
    rate_rps: float
    deployment: str


SWEEPS: dict[str, tuple[tuple[str, Case], ...]] = {
    "policies": (("as above", Case()),),
    "TPOT limit": tuple(
        (f"{ms:g} ms", Case(tpot_ms=ms)) for ms in (15.0, 20.0, 30.0, 50.0, 100.0)
    ),
    "TTFT limit (TPOT 30 ms)": tuple(
        (f"{ms:g} ms", Case(ttft_ms=ms, tpot_ms=30.0))
        for ms in (200.0, 400.0, 1000.0, 4000.0)
    ),
    "lengths (TPOT 30 ms)": tuple(
        (text, Case(lengths=text, tpot_ms=30.0))
        for text in ("128x512", "512x256", "1024x256", "2048x128", "8192x64")
    ),
    "link rate (TPOT 20 ms)": tuple(
        (f"{share * LINK_GB_PER_S:.3g} GB/s", Case(link_frac=share, tpot_ms=20.0))
        for share in (0.8, 0.05, 0.005, 0.002, 0.001, 0.0005)
    ),
}


def rows_of(label: str, case: Case, policies: Sequence[str] = POLICIES) -> list[Row]:
    """The best of every policy in one setting."""
    problem = case.problem()
    planner = Planner(problem=problem, library=LatencyLibrary.default())
    evaluator = Evaluator(planner=planner)
    found = []
    for policy in policies:
        deployments = (
            split_deployments(evaluator)
            if policy == SPLIT
            else joint_deployments(evaluator, Batching(policy))
        )
        best = max(
            ((evaluator.goodput(each).rate_rps, each) for each in deployments),
            key=lambda pair: pair[0],
        )
        found.append(
            Row(
                case=label,
                policy=policy,
                rate_rps=best[0],
                deployment=best[1].describe() if best[0] > 0 else "-",
            )
        )
    return found


def joint_deployments(evaluator: Evaluator, policy: Batching) -> Iterator[Deployment]:
    """The node in equal replicas that do both phases."""
    planner, slo = evaluator.planner, evaluator.planner.problem.service.slo
    engine = planner.problem.engine.limits
    for tp in WIDTHS:
        limits = limits_of_policy(engine, policy)
        alone = planner.deploy([shape(Phase.AGGREGATED, tp)])
        if alone is None:
            continue
        if policy.cuts_prompts:
            limits = best_chunk_budget(evaluator, alone, slo, policy=policy).limits
        (replica,) = with_limits(planner, alone, limits).replicas
        whole = planner.deploy([replica.shape] * (NUM_GPUS // tp))
        if whole is not None:
            yield whole


def split_deployments(evaluator: Evaluator) -> Iterator[Deployment]:
    """Every ratio of equal replicas, and TP4 decode beside narrower prefill."""
    planner, slo = evaluator.planner, evaluator.planner.problem.service.slo
    part = slo.only("ttft")
    for wide, narrow in ((2, 2), (4, 4), (2, 4), (4, 2)):
        alone = planner.deploy([shape(Phase.PREFILL, wide)])
        if alone is None or part is None:
            continue
        own = Batching.PREFILL_FIRST
        limits = best_chunk_budget(evaluator, alone, part, policy=own).limits
        prefill = replace(shape(Phase.PREFILL, wide), limits=limits)
        decode = shape(Phase.DECODE, narrow)
        for num_prefill in range(1, NUM_GPUS // wide + 1):
            num_decode = (NUM_GPUS - num_prefill * wide) // narrow
            if num_decode < 1:
                continue
            whole = planner.deploy([prefill] * num_prefill + [decode] * num_decode)
            if whole is not None:
                yield whole


def shape(phase: Phase, tp: int) -> ReplicaShape:
    """A tensor-parallel replica."""
    return ReplicaShape(
        phase=phase, gpu_type="h100_sxm", parallelism=Parallelism(tp=tp)
    )
