"""Layer bound: the most that a GPU adds to replicas of unlike stages.

Idea
    A replica of rate R has R requests/s pass each of its stages, so it is the sum over
    its stages of their share of the layers times R. No stage with k of L layers passes
    more than its own capacity c(k), so R <= sum of (k / L) * c(k). A step of k layers
    takes at least k times the least time of a layer, and no stage has more room for KV
    caches than one with a single layer. With both, (k / L) * c(k) is at most 1 / L of
    the capacity of such a layer, whatever k is, and no GPU adds more than that for each
    GPU of its stage.

Assumes
    The least time of a layer is that of a stage with the most layers that fit, where
    what is done once a step is shared by most.
"""

from dataclasses import replace

from models.latency.library import LatencyUnavailableError
from models.parallelism import Parallelism
from planner.capacity import replica_capacity_rps
from planner.pipelines.stage_costs import Place, StageCatalog, StageCosts, StageKind
from planner.placement import FreeGpus, Host
from planner.search.batching import wanted_policies
from planner.search.chunk_budget import ladder, limits_of_policy
from planner.search.shapes import usable_gpu_types
from planner.serving import Planner
from planner.simulator.system import BatchLimits, Phase, ServingReplica
from planner.workload.requests import Requests


def layer_rates(planner: Planner, sample: Requests) -> dict[tuple[str, Phase], float]:
    """Highest rate that a GPU of a type adds to a phase, in requests/s.

    Types that hold not a layer, or that no latency covers, are left out.
    """
    problem = planner.problem
    engine, memory = problem.engine.limits, problem.engine.memory
    least = min(memory.max_batch_tokens, ladder(engine.max_batch_tokens)[0])
    catalog = StageCatalog(
        llm=problem.service.llm,
        library=planner.library,
        memory=replace(memory, max_batch_tokens=least),
    )
    best: dict[tuple[str, Phase], float] = {}
    for kind in stage_kinds(planner):
        for place in Place:
            try:
                costs = catalog.costs(kind, place)
            except LatencyUnavailableError:
                continue
            for phase in Phase if costs is not None else ():
                assert costs is not None
                rate = _layer_rps(planner, costs, phase, sample)
                per_gpu = rate / problem.service.llm.num_layers / kind.tp
                key = kind.gpu.name, phase
                best[key] = max(best.get(key, 0.0), per_gpu)
    return best


def stage_kinds(planner: Planner) -> list[StageKind]:
    """Every width of tensor-parallel group of every type, on its first such host."""
    problem = planner.problem
    topology, llm = problem.cluster.topology, problem.service.llm
    found: dict[StageKind, None] = {}
    for host in FreeGpus.of(problem.cluster).hosts:
        if host.gpu_type not in usable_gpu_types(problem):
            continue
        for tp in range(1, host.num_free + 1):
            if Parallelism(tp=tp).why_not(llm) is None:
                # Inside an island where one has room, as placement does.
                islands = [list(island) for island in host.islands]
                gpus = Host(host.gpu_type, islands).take(tp)
                gpu = topology.gpu(gpus[0]).type
                found[StageKind(gpu=gpu, tp=tp, ring=topology.ring(gpus))] = None
    return list(found)


def _layer_rps(
    planner: Planner, costs: StageCosts, phase: Phase, sample: Requests
) -> float:
    """Capacity of one layer in a stage, with the batching that suits it best."""
    problem = planner.problem
    table = costs.tables[-1].scaled(1.0 / costs.knots[-1])
    engine = problem.engine.limits
    limits: list[BatchLimits] = [engine]
    if phase is Phase.AGGREGATED:
        policies = wanted_policies(problem)
        limits += [limits_of_policy(engine, policy) for policy in policies]
    cache = problem.service.prefix_cache
    return max(
        replica_capacity_rps(
            ServingReplica(
                phase=phase,
                stages=(table,),
                limits=each,
                kv_capacity_tokens=costs.kv_tokens[0],
                kv_block_tokens=problem.engine.memory.block_tokens,
                prefix_cache=None if phase is Phase.DECODE else cache,
            ),
            sample,
        )
        for each in limits
    )
