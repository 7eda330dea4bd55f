"""Leftovers: whether a cluster has GPUs that serve only together with other types."""

from models.memory import memory_of
from planner.placement import FreeGpus
from planner.problem import Problem
from planner.search.shapes import parallelisms, usable_gpu_types


def why_not_unlike(problem: Problem) -> str | None:
    """Why no pipeline of unlike stages can be made, or None."""
    if len(usable_gpu_types(problem)) < 2:
        return "all GPUs are of one type"
    if problem.search.max_pp < 2:
        return "the search space has no pipelines (search.max_pp: 1)"
    return None


def why_no_leftovers(problem: Problem) -> str | None:
    """Why pipelines of unlike stages add nothing where uniform ones serve; or None.

    None where no host of a GPU type holds the model by itself, or where a type has GPUs
    beyond a multiple of its smallest replica.
    """
    free = FreeGpus.of(problem.cluster, problem.search.available_gpus)
    for name in usable_gpu_types(problem):
        least = least_gpus(problem, name)
        if least is None or least > free.largest_group(name):
            return None
        if free.num_free(name) % least:
            return None
    return "every GPU type serves by itself (ask for it by name)"


def least_gpus(problem: Problem, gpu_type: str) -> int | None:
    """GPUs of the smallest uniform replica of a type that has room for a mean request.

    None when there is none.
    """
    free = FreeGpus.of(problem.cluster, problem.search.available_gpus)
    group, total = free.largest_group(gpu_type), free.num_free(gpu_type)
    gpu = next(g for g in problem.cluster.gpu_types() if g.name == gpu_type)
    service = problem.service
    request = service.workload.mean_input_tokens + service.workload.mean_output_tokens
    sizes = []
    for parallelism in parallelisms(problem, group, total):
        if parallelism.num_gpus <= total:
            memory = memory_of(service.llm, parallelism, gpu, problem.engine.memory)
            if memory.fits and memory.max_kv_tokens >= request:
                sizes.append(parallelism.num_gpus)
    return min(sizes, default=None)
