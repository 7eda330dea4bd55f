"""Replica shapes worth considering for a problem, and why the others are not."""

from dataclasses import replace

from clusters.units import GB
from models.latency.library import LatencyUnavailableError
from models.llm import LlmSpec
from models.memory import memory_of
from models.parallelism import Parallelism
from planner.deployment import Deployment, ReplicaShape
from planner.placement import FreeGpus
from planner.problem import Problem
from planner.search.contract import Ledger
from planner.serving import Planner
from planner.simulator.system import Phase


def parallelisms(
    problem: Problem, largest_group: int, num_gpus: int, phase: Phase | None = None
) -> list[Parallelism]:
    """Every TP, PP and rank of the search space that these numbers of GPUs can hold.

    Degrees that the problem asks for are listed in any case, to be counted. Context
    parallelism is for prefill: in decode its ranks repeat the matrices.
    """
    space = problem.search
    degrees = space.tp or tuple(range(1, largest_group + 1))
    limit = min(num_gpus, space.max_gpus or num_gpus)
    ranks = [Parallelism()]
    ranks += [
        Parallelism(attention_dp=n) for n in sorted(set(space.attention_dp) - {1})
    ]
    if phase is Phase.PREFILL:
        ranks += [Parallelism(cp=n) for n in sorted(set(space.cp) - {1})]
    return [
        _with_experts_apart(problem.service.llm, replace(each, tp=tp, pp=pp))
        for tp in sorted(set(degrees))
        for pp in range(1, space.max_pp + 1)
        for each in ranks
        if tp * pp * each.num_ranks <= limit or (space.tp and pp == 1)
    ]


def _with_experts_apart(llm: LlmSpec, parallelism: Parallelism) -> Parallelism:
    """The same with the experts of a stage with ranks on different GPUs, if they fit.

    Otherwise every expert is split over all of them, as without ranks.
    """
    size = parallelism.gpus_per_stage
    if parallelism.num_ranks == 1 or llm.moe is None or llm.moe.num_experts % size:
        return parallelism
    return replace(parallelism, ep=size)


def usable_gpu_types(problem: Problem) -> tuple[str, ...]:
    """GPU types that the search may use, in the order of the cluster."""
    return problem.usable_gpu_types


def usable_shapes(
    planner: Planner, phase: Phase, ledger: Ledger
) -> tuple[Deployment, ...]:
    """Deployments of one replica: the model divides, fits, has a latency and a place.

    Every other shape is counted in `ledger` with the reason.
    """
    problem = planner.problem
    free = FreeGpus.of(problem.cluster, problem.search.available_gpus)
    budget = problem.search.max_gpus or problem.cluster.num_gpus
    found = []
    for gpu_type in usable_gpu_types(problem):
        group, total = free.largest_group(gpu_type), free.num_free(gpu_type)
        for parallelism in parallelisms(problem, group, total, phase):
            shape = ReplicaShape(
                phase=phase, gpu_type=gpu_type, parallelism=parallelism
            )
            reason = why_not(planner, shape)
            if reason is None and parallelism.num_gpus > budget:
                reason = "needs more GPUs than the plan may use"
            alone = None if reason else planner.deploy([shape])
            if alone is None:
                ledger.reject(reason or "does not fit the nodes")
                continue
            try:
                planner.system(alone)
            except LatencyUnavailableError as error:
                ledger.reject(f"no latency: {error}")
                continue
            found.append(alone)
    return tuple(found)


def why_not(planner: Planner, shape: ReplicaShape) -> str | None:
    """Why a shape cannot run the model, or None (a reason that counts together)."""
    problem = planner.problem
    llm = problem.service.llm
    gpu = next(g for g in problem.cluster.gpu_types() if g.name == shape.gpu_type)
    if shape.parallelism.why_not(llm):
        return "parallelism does not divide the model"
    memory = memory_of(llm, shape.parallelism, gpu, problem.engine.memory)
    if memory.why_not:
        return f"does not fit the memory of {gpu.name} ({gpu.memory_bytes / GB:.0f} GB)"
    return None
