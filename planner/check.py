"""`check_plan`: what must hold of any plan, from any method or any file."""

from collections import Counter

from clusters.fields import InputError
from models.memory import memory_of
from planner.deployment import Deployment, Replica
from planner.plan import Plan
from planner.problem import Problem
from planner.simulator.system import Phase


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


def _check_replica(problem: Problem, replica: Replica) -> None:
    llm = problem.service.llm
    parallelism = replica.parallelism
    why_not = parallelism.why_not(llm)
    if why_not:
        raise InputError("parallelism", str(parallelism), f"one that fits ({why_not})")
    for stage, gpus in enumerate(replica.stage_gpus):
        if len(gpus) != parallelism.gpus_per_stage:
            raise InputError(
                f"stage_gpus[{stage}]", gpus, f"{parallelism.gpus_per_stage} GPUs"
            )
    topology = problem.cluster.topology
    types = {topology.gpu(gpu).type.name for gpu in replica.gpu_indices}
    if types != {replica.gpu_type}:
        raise InputError("gpu_type", replica.gpu_type, f"the type of its GPUs {types}")
    if sum(parallelism.layers_per_stage(llm)) != llm.num_layers:
        layers = parallelism.layers_per_stage(llm)
        raise InputError("stage_layers", layers, f"{llm.num_layers} layers in all")
    gpu = topology.gpu(replica.gpu_indices[0]).type
    memory = memory_of(llm, parallelism, gpu, problem.engine.memory)
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
    if count[Phase.BOTH] and (count[Phase.PREFILL] or count[Phase.DECODE]):
        raise InputError("deployment.replicas", count, "one kind: split or aggregated")
    if bool(count[Phase.PREFILL]) != bool(count[Phase.DECODE]):
        raise InputError("deployment.replicas", count, "both prefill and decode")


def _check_routes(problem: Problem, deployment: Deployment) -> None:
    by_name = {replica.name: replica for replica in deployment.replicas}
    known = set()
    edges = len(problem.cluster.topology.edges)
    for index, route in enumerate(deployment.routes):
        for end in (route.source, route.target):
            if end not in by_name:
                raise InputError(
                    f"deployment.routes[{index}]", end, "the name of a replica"
                )
        for edge in route.edges:
            if not 0 <= edge < edges:
                raise InputError(
                    f"deployment.routes[{index}].edges", edge, "a link of the topology"
                )
        known.add((route.source, route.target))
    for source in deployment.of_phase(Phase.PREFILL):
        for target in deployment.of_phase(Phase.DECODE):
            pair = (source.name, target.name)
            if source.slice == target.slice and pair not in known:
                raise InputError(
                    "deployment.routes", f"{pair[0]} -> {pair[1]}", "a KV route a pair"
                )
