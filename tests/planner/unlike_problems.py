"""Two GPU types by hand, and latencies in round numbers that grow with the layers."""

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
from planner.objective import Goal
from planner.problem import Problem
from planner.serving import Planner
from planner.simulator.system import BatchLimits, Phase
from planner.slo import Slo
from tests.models.conftest import TINY
from tests.planner.tiny_problems import tiny_cluster, tiny_problem

SIX = replace(TINY, name="six", num_layers=6)
"""1152 bytes of weights a layer, 160 for the embedding and 160 for the head."""

SPEED = {"big": 2.0, "small": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSource:
    """Prefill 2 ms + 0.02 ms a token for each layer, decode 2 ms + 0.1 ms a request.

    Over TP and the speed of the GPU type.
    """

    name: str = "layers"
    provenance: Provenance = Provenance.MEASURED
    expected_error_frac: float | None = 0.1

    def why_not_pair(self, llm: LlmSpec, gpu: object) -> str | None:
        return None

    def compile(self, request: LatencyRequest) -> tuple[StepTable, ...]:
        layer = StepTable(
            prefill_tokens=(0.0, 100.0),
            prefill_ms=(2.0, 4.0),
            decode_batch=(0.0, 100.0),
            decode_ms=(2.0, 12.0),
            decode_per_kv_token_ms=(0.0, 0.0),
        )
        speed = request.parallelism.tp * SPEED.get(request.gpu.name, 1.0)
        held = request.parallelism.layers_per_stage(request.llm)
        return tuple(layer.scaled(num / speed) for num in held)


LIBRARY = LatencyLibrary(sources=(LayerSource(),))


def two_types(
    num_big: int = 1,
    num_small: int = 1,
    *,
    gpus_per_node: int = 2,
    big_bytes: float = 2.0**20,
    small_bytes: float = 2.0**20,
) -> Cluster:
    """Nodes of big GPUs (4 $/h and 200 W each) and small ones (1 $/h and 100 W)."""
    quick = {"nic_latency_ms": 0.0, "pcie_latency_ms": 0.0}
    first = tiny_cluster(1, gpus_per_node, **quick).nodes[0].type
    kinds = {
        "big": (num_big, big_bytes, 4.0, 200.0),
        "small": (num_small, small_bytes, 1.0, 100.0),
    }
    nodes = []
    for name, (num, memory_bytes, usd, tdp_w) in kinds.items():
        gpu = replace(first.gpu, name=name, memory_bytes=memory_bytes, tdp_w=tdp_w)
        kind = replace(
            first, name=f"{name}_node", gpu=gpu, usd_per_hour=usd * gpus_per_node
        )
        nodes += [Node(name=f"{name}{i}", type=kind) for i in range(num)]
    return Cluster(name="two_types", nodes=tuple(nodes), fabric=Fabric())


def unlike_problem(
    cluster: Cluster | None = None,
    *,
    slo: Slo | None = None,
    goal: Goal = Goal.MAX_GOODPUT,
    **space: object,
) -> Problem:
    problem = tiny_problem(
        cluster=cluster or two_types(),
        goal=goal,
        slo=slo or Slo(ttft_ms=400.0, tpot_ms=60.0),
        **{"max_pp": 4, **space},
    )
    service = replace(problem.services[0], llm=SIX)
    memory = MemorySettings(
        runtime_reserve_bytes=0.0, communication_reserve_bytes=0.0, max_batch_tokens=64
    )
    engine = replace(problem.engine, memory=memory)
    return replace(problem, services=(service,), engine=engine)


def unlike_planner(problem: Problem) -> Planner:
    return Planner(problem=problem, library=LIBRARY)


def unlike_shape(
    phase: Phase, *stages: tuple[str, int, int], limits: BatchLimits | None = None
) -> ReplicaShape:
    """A replica of stages as (GPU type, TP, layers)."""
    types, widths, layers = zip(*stages, strict=True)
    return ReplicaShape(
        phase=phase,
        gpu_type=types[0],
        stage_gpu_types=types,
        parallelism=Parallelism(
            tp=max(widths), pp=len(stages), stage_tp=widths, stage_layers=layers
        ),
        limits=limits or BatchLimits(),
    )
