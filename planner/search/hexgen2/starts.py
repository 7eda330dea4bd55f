"""Starts: groupings by spectral partition, from few large groups to many small ones."""

import math
from collections import Counter
from collections.abc import Iterator

import numpy as np

from planner.limits import why_too_much
from planner.problem import Problem
from planner.search.hexgen2.graph import GpuGraph
from planner.search.hexgen2.grouping import Group, Grouping, grouping_of
from planner.search.hexgen2.partition import Parts, partition
from planner.search.hexgen2.phase_split import coarsened, prefill_side
from planner.search.hexgen2.strategy import Strategies
from planner.search.ratios import gpu_budget
from planner.search.shapes import usable_gpu_types
from planner.simulator.system import Phase

SWEEP = (1.0, 0.5, 0.75, 0.25, 0.0)
"""Groups of each type, as a share of the most that can hold the model; then by lot."""

_NOISE_FRAC = 0.3
"""Noise on bandwidths from the second round of the sweep on."""


def starts(
    problem: Problem,
    graph: GpuGraph,
    strategies: Strategies,
    rng: np.random.Generator,
    num_starts: int,
) -> Iterator[Grouping]:
    """Groupings to start from; each within the limits of the search space."""
    pools = _pools(problem, strategies)
    for number in range(num_starts if pools else 0):
        share = SWEEP[number] if number < len(SWEEP) else None
        noise_frac = 0.01 if share is not None else _NOISE_FRAC
        parts: Parts = []
        numbers = _numbers_of_parts(pools, share, rng)
        for (gpus, _), num_parts in zip(pools, numbers, strict=True):
            parts += partition(graph, gpus, num_parts, rng, noise_frac=noise_frac)
        if len(parts) < 2:
            return  # one GPU
        is_prefill = prefill_side(coarsened(graph, parts), rng)
        groups = [
            Group(gpus=part, phase=Phase.PREFILL if first else Phase.DECODE)
            for part, first in zip(parts, is_prefill, strict=True)
        ]
        yield grouping_of(within_limits(problem, groups))


def _pools(
    problem: Problem, strategies: Strategies
) -> list[tuple[tuple[int, ...], int]]:
    """GPUs of each type that runs the model, and how many a replica takes at least."""
    topology = problem.cluster.topology
    found = []
    for name in usable_gpu_types(problem):
        gpus = tuple(gpu.index for gpu in topology.gpus if gpu.type.name == name)
        least = strategies.least_gpus(name)
        if least is not None:
            found.append((gpus, least))
    return found


def _numbers_of_parts(
    pools: list[tuple[tuple[int, ...], int]],
    share: float | None,
    rng: np.random.Generator,
) -> list[int]:
    """Groups of each type, two in all at least (if there are two GPUs)."""
    numbers = []
    for gpus, least in pools:
        most = len(gpus) // least
        drawn = rng.random() if share is None else share
        numbers.append(max(1, math.ceil(drawn * most)))
    if sum(numbers) < 2:
        numbers[0] = min(2, len(pools[0][0]))
    return numbers


def within_limits(problem: Problem, groups: list[Group]) -> list[Group]:
    """Groups set idle until the plan's limits on GPUs and replicas are kept.

    Those of the phase with more groups first, the largest first.
    """
    most_replicas = problem.search.max_replicas or len(groups)
    while True:
        active = {
            phase: [g for g in groups if g.phase is phase]
            for phase in (Phase.PREFILL, Phase.DECODE)
        }
        num_gpus = sum(len(g.gpus) for each in active.values() for g in each)
        larger = max(active.values(), key=len)
        is_within = (
            num_gpus <= gpu_budget(problem)
            and len(larger) <= most_replicas
            and _is_affordable(problem, [g for each in active.values() for g in each])
        )
        if is_within or len(larger) < 2:
            return groups
        gone = max(larger, key=lambda g: (len(g.gpus), g.gpus))
        groups = [
            Group(gpus=g.gpus, phase=None if g == gone else g.phase) for g in groups
        ]


def _is_affordable(problem: Problem, groups: list[Group]) -> bool:
    """Whether all GPUs of some groups keep the limits on types, budget and power."""
    cluster = problem.cluster
    gpus = [gpu for group in groups for gpu in group.gpus]
    used = Counter(cluster.topology.gpu(gpu).type.name for gpu in gpus)
    usd, power = cluster.usd_per_hour(gpus), cluster.power_w(gpus)
    return why_too_much(problem, used, usd, power) is None
