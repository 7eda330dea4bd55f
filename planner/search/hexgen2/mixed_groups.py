"""Mixed groups: groupings to start from in which GPUs of several types serve together.

Groups of one type are what the partition makes. Where a type cannot hold the model by
itself, or leaves GPUs over, pipelines of unlike stages that promise most become groups
too, as many of a kind as fit; the GPUs that are left are parted by type as before.
"""

import numpy as np

from planner.placement import FreeGpus
from planner.problem import Problem
from planner.search.contract import Ledger
from planner.search.hexgen2.graph import GpuGraph
from planner.search.hexgen2.grouping import Group, Grouping, grouping_of
from planner.search.hexgen2.partition import Parts, partition
from planner.search.hexgen2.phase_split import coarsened, prefill_side
from planner.search.hexgen2.starts import within_limits
from planner.search.hexgen2.strategy import Strategies
from planner.search.pipelines.candidates import Unlike
from planner.search.pipelines.leftovers import why_no_leftovers, why_not_unlike
from planner.simulator.system import Phase

NUM_KINDS = 2
"""Kinds of pipelines of each phase that groupings are made of."""


def mixes_types(problem: Problem) -> bool:
    """Whether groups of several types are looked at."""
    return why_not_unlike(problem) is None and why_no_leftovers(problem) is None


def mixed_starts(
    problem: Problem,
    graph: GpuGraph,
    strategies: Strategies,
    rng: np.random.Generator,
    ledger: Ledger,
) -> list[Grouping]:
    """Groupings with groups of several types; none where types serve alone."""
    if not mixes_types(problem):
        return []
    found: dict[Grouping, None] = {}
    for phase in (Phase.DECODE, Phase.PREFILL):
        free = FreeGpus.of(problem.cluster, problem.search.available_gpus)
        for unlike in strategies.unlike.best(free, phase, NUM_KINDS, ledger):
            parts = _parts(problem, graph, strategies, unlike, rng)
            if len(parts) > 1:
                is_prefill = prefill_side(coarsened(graph, parts), rng)
                groups = [
                    Group(gpus=part, phase=Phase.PREFILL if first else Phase.DECODE)
                    for part, first in zip(parts, is_prefill, strict=True)
                ]
                found[grouping_of(within_limits(problem, groups))] = None
    return list(found)


def _parts(
    problem: Problem,
    graph: GpuGraph,
    strategies: Strategies,
    unlike: Unlike,
    rng: np.random.Generator,
) -> Parts:
    """GPUs of as many such replicas as fit, and the others by type."""
    free = FreeGpus.of(problem.cluster, problem.search.available_gpus)
    parts: Parts = []
    for _ in range(unlike.num_replicas):
        stages = free.take_replica(unlike.alone.replicas[0].shape)
        assert stages is not None, "a replica that fits"
        parts.append(tuple(sorted(gpu for stage in stages for gpu in stage)))
    left: dict[str, list[int]] = {}
    for host in free.hosts:
        for island in host.islands:
            left.setdefault(host.gpu_type, []).extend(island)
    for name, every in left.items():
        least, gpus = strategies.least_gpus(name), sorted(every)[: free.num_free(name)]
        if least is not None and len(gpus) >= least:
            parts += partition(graph, tuple(gpus), len(gpus) // least, rng)
    return parts
