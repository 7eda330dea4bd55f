"""`check_plan`: what must hold of any plan, from any method or any file."""

import math
from collections import Counter
from collections.abc import Set

from clusters.fields import InputError
from planner.deployment import Deployment, Replica
from planner.kv_shards import kv_transfer
from planner.limits import why_over
from planner.plan import Plan
from planner.problem import Problem
from planner.serving import replica_memory, stage_types
from planner.simulator.system import Phase, Routing, kv_phases


def check_plan(plan: Plan) -> None:
    """Check a plan against its own problem.

    Raises
    ------
    InputError
        Naming the first thing that does not hold.
    """
    check_deployment(plan.problem, plan.deployment)


def check_deployment(problem: Problem, deployment: Deployment) -> None:
    """GPUs exist and are used once, replicas fit, routes exist where they must.

    Raises
    ------
    InputError
        Naming the first thing that does not hold.
    """
    _check_gpus(problem, deployment)
    _check_search_space(problem, deployment)
    for index, replica in enumerate(deployment.replicas):
        try:
            _check_replica(problem, replica)
        except InputError as error:
            raise error.within(f"deployment.replicas[{index}]") from None
    _check_phases(deployment)
    _check_routes(problem, deployment)


def _check_gpus(problem: Problem, deployment: Deployment) -> None:
    total = problem.cluster.num_gpus
    uses = Counter(gpu for r in deployment.replicas for gpu in r.gpu_indices)
    for gpu, times in sorted(uses.items()):
        if not 0 <= gpu < total:
            raise InputError("deployment.gpus", gpu, f"a GPU between 0 and {total - 1}")
        if times > 1:
            raise InputError("deployment.gpus", gpu, "each GPU in one replica only")


def _check_search_space(problem: Problem, deployment: Deployment) -> None:
    space = problem.search
    if space.max_gpus is not None and deployment.num_gpus > space.max_gpus:
        raise InputError(
            "deployment.gpus", deployment.num_gpus, f"at most {space.max_gpus} GPUs"
        )
    why_not = why_over(problem, deployment)
    if why_not:
        raise InputError(
            "deployment", deployment.describe(), f"a plan within its limits ({why_not})"
        )
    for phase in Phase:
        num = len(deployment.of_phase(phase))
        if space.max_replicas is not None and num > space.max_replicas:
            raise InputError(
                "deployment.replicas", num, f"at most {space.max_replicas} of a phase"
            )


def _check_replica(problem: Problem, replica: Replica) -> None:
    llm = problem.service.llm
    parallelism = replica.parallelism
    why_not = parallelism.why_not(llm)
    if why_not:
        raise InputError("parallelism", str(parallelism), f"one that fits ({why_not})")
    for stage, (gpus, width) in enumerate(
        zip(replica.stage_gpus, parallelism.stage_widths, strict=True)
    ):
        if len(gpus) != width:
            raise InputError(f"stage_gpus[{stage}]", gpus, f"{width} GPUs")
    topology = problem.cluster.topology
    for stage, (gpus, name) in enumerate(
        zip(replica.stage_gpus, replica.shape.gpu_types, strict=True)
    ):
        types = {topology.gpu(gpu).type.name for gpu in gpus}
        if types != {name}:
            is_alike = replica.stage_gpu_types is None
            key = "gpu_type" if is_alike else f"stage_gpu_types[{stage}]"
            raise InputError(key, name, f"the type of its GPUs {types}")
    for stage, gpus in enumerate(replica.stage_gpus):
        if len({topology.domain_of(gpu) for gpu in gpus}) > 1:
            raise InputError(
                f"stage_gpus[{stage}]", gpus, "GPUs of one node or NVLink domain"
            )
    kinds = stage_types(topology, replica.stage_gpus)
    memory = replica_memory(problem, parallelism, kinds, replica.limits)
    if memory.why_not:
        raise InputError("parallelism", str(parallelism), f"room ({memory.why_not})")
    if replica.kv_capacity_tokens > memory.max_kv_tokens:
        raise InputError(
            "kv_capacity_tokens",
            replica.kv_capacity_tokens,
            f"at most the {memory.max_kv_tokens} tokens that fit",
        )


def _check_phases(deployment: Deployment) -> None:
    count = {phase: len(deployment.of_phase(phase)) for phase in Phase}
    if count[Phase.AGGREGATED] and (count[Phase.PREFILL] or count[Phase.DECODE]):
        raise InputError("deployment.replicas", count, "one kind: split or aggregated")
    if bool(count[Phase.PREFILL]) != bool(count[Phase.DECODE]):
        raise InputError("deployment.replicas", count, "both prefill and decode")


def _check_routes(problem: Problem, deployment: Deployment) -> None:
    by_name = {replica.name: replica for replica in deployment.replicas}
    sources = {source for source, _ in kv_phases(deployment.routing)}
    targets = {target for _, target in kv_phases(deployment.routing)}
    known = set()
    for index, route in enumerate(deployment.routes):
        where = f"deployment.routes[{index}]"
        source, target = by_name.get(route.source), by_name.get(route.target)
        if source is None or source.phase not in sources:
            raise InputError(
                f"{where}.source", route.source, f"the name of a {_any_of(sources)}"
            )
        if target is None or target.phase not in targets:
            raise InputError(
                f"{where}.target", route.target, f"the name of a {_any_of(targets)}"
            )
        path = kv_transfer(problem, source, target)
        if route.edges != path.edges:
            raise InputError(f"{where}.edges", route.edges, f"{path.edges}")
        if not math.isclose(route.bytes_per_s, path.bytes_per_s, rel_tol=1e-6):
            raise InputError(
                f"{where}.bytes_per_s", route.bytes_per_s, f"{path.bytes_per_s:g}"
            )
        known.add((route.source, route.target))
    if deployment.routing is Routing.FLOW_SHARES:
        total = sum(route.share_frac or 0.0 for route in deployment.routes)
        if not math.isclose(total, 1.0, rel_tol=1e-6):
            form = "shares of the routes that add up to 1"
            raise InputError("deployment.routes", f"{total:g}", form)
    slices = {replica.slice for replica in deployment.of_phase(Phase.DECODE)}
    for source in deployment.of_phase(Phase.PREFILL):
        if source.slice not in slices:
            raise InputError(
                f"{source.name}.slice", source.slice, "a slice with a decode replica"
            )
    for source, target in deployment.kv_pairs():
        pair = (source.name, target.name)
        if pair not in known:
            raise InputError(
                "deployment.routes", f"{pair[0]} -> {pair[1]}", "a KV route a pair"
            )


def _any_of(phases: Set[Phase]) -> str:
    return " or ".join(sorted(f"{phase}" for phase in phases)) + " replica"
