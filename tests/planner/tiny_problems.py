"""Tiny problems by hand: a model that fits anywhere, and latencies in round numbers."""

from dataclasses import dataclass, replace

from clusters.cluster import Cluster
from clusters.fabric import Fabric
from clusters.node import Node
from models.latency.library import LatencyLibrary, LatencyRequest, Provenance
from models.latency.step_table import StepTable
from models.llm import LlmSpec
from models.memory import MemorySettings
from models.parallelism import Parallelism
from planner.deployment import ReplicaShape
from planner.evaluate import Evaluator
from planner.goodput import Effort
from planner.objective import Goal, Objective
from planner.problem import EngineSettings, Problem, SearchSpace, Service
from planner.search.contract import SearchContext
from planner.serving import Planner
from planner.simulator.system import BatchLimits, Phase
from planner.slo import Slo
from planner.stop import Never, StoppingCriterion
from planner.workload.workload import Workload
from tests.clusters.tiny_clusters import make_tiny_cluster, make_tiny_gpu
from tests.models.conftest import TINY

QUICK = Effort(min_requests=60, max_requests=120, span_s=10.0, tolerance_frac=0.02)


@dataclass(frozen=True, slots=True, kw_only=True)
class TinySource:
    """Prefill 10 ms + 0.1 ms a token, decode 10 ms + 0.5 ms a request; 1/TP of it."""

    name: str = "tiny"
    provenance: Provenance = Provenance.MEASURED
    expected_error_frac: float | None = 0.2

    def why_not_pair(self, llm: LlmSpec, gpu: object) -> str | None:
        return None

    def compile(self, request: LatencyRequest) -> tuple[StepTable, ...]:
        whole = StepTable(
            prefill_tokens=(0.0, 100.0),
            prefill_ms=(10.0, 20.0),
            decode_batch=(0.0, 100.0),
            decode_ms=(10.0, 60.0),
            decode_per_kv_token_ms=(0.0, 0.0),
        )
        split = request.parallelism.tp * request.parallelism.pp
        return (whole.scaled(1.0 / split),) * request.parallelism.pp


TINY_LIBRARY = LatencyLibrary(sources=(TinySource(),))


def tiny_cluster(num_nodes: int = 1, gpus_per_node: int = 4, **changes) -> Cluster:
    """Nodes with an NVSwitch of 100 GB/s and one NIC of 2 GB/s, 2.5 $/h a GPU."""
    given = {
        "gpu": make_tiny_gpu(nvlink_gb_per_s=100.0),
        "num_gpus": gpus_per_node,
        "interconnect": "nvswitch",
        "num_sockets": 1,
        "num_nics": 1,
        "usd_per_hour": 2.5 * gpus_per_node,
        **changes,
    }
    return make_tiny_cluster(num_nodes, **given)


def mixed_cluster() -> Cluster:
    """Two GPUs named tiny, and two named other, a node of each."""
    first = tiny_cluster(1, 2).nodes[0]
    other = replace(first.type.gpu, name="other")
    second = replace(first.type, name="other_node", gpu=other, usd_per_hour=1.0)
    nodes = (first, Node(name="node1", type=second))
    return Cluster(name="mixed", nodes=nodes, fabric=Fabric())


def tiny_problem(
    *,
    goal: Goal = Goal.MAX_GOODPUT_PER_GPU,
    cluster: Cluster | None = None,
    slo: Slo | None = None,
    rate_rps: float = 20.0,
    lengths: str = "100x11",
    **space,
) -> Problem:
    """100 tokens in, 11 out: 20 ms of prefill and 10 steps of decode on one GPU."""
    return Problem(
        cluster=cluster or tiny_cluster(),
        services=(
            Service(
                llm=TINY,
                workload=Workload.poisson(rate_rps=rate_rps, lengths=lengths),
                slo=slo or Slo(ttft_ms=60.0, tpot_ms=16.0),
            ),
        ),
        objective=Objective(goal=goal),
        engine=EngineSettings(
            memory=MemorySettings(runtime_reserve_bytes=0.0, max_batch_tokens=64)
        ),
        search=SearchSpace(**{"max_pp": 2, **space}),
    )


def planner_of(problem: Problem) -> Planner:
    return Planner(problem=problem, library=TINY_LIBRARY)


def context_of(
    problem: Problem,
    *,
    stop: StoppingCriterion | None = None,
    seed: int = 0,
    library: LatencyLibrary = TINY_LIBRARY,
    effort: Effort = QUICK,
) -> SearchContext:
    planner = Planner(problem=problem, library=library)
    evaluator = Evaluator(planner=planner, seed=seed, effort=effort)
    return SearchContext(evaluator, stop or Never())


def shape(
    phase: Phase, tp: int = 1, pp: int = 1, gpu_type: str = "tiny"
) -> ReplicaShape:
    return ReplicaShape(
        phase=phase,
        gpu_type=gpu_type,
        parallelism=Parallelism(tp=tp, pp=pp),
        limits=BatchLimits(),
    )
