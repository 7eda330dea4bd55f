"""Recipes: which GPUs make one pipeline of unlike stages, before layers are dealt out.

A recipe is a number of tensor-parallel groups of each of two GPU types or more. Equal
shares of all groups are recipes (all of them, a half, a third, ...), and so are all
small ones. Groups of a type follow each other, and types with more memory come first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product

from clusters.fields import spec
from clusters.gpu import GpuType
from models.flops import stage_shapes
from models.parallelism import Parallelism
from planner.deployment import ReplicaShape
from planner.placement import FreeGpus
from planner.problem import Problem
from planner.search.shapes import usable_gpu_types
from planner.simulator.system import Phase

NUM_WIDTHS = 2
"""Tensor parallelism degrees of a GPU type that are tried, the widest ones."""

_SMALL_STAGES = 4
"""Stages up to which every recipe is listed."""

_MAX_SHARES = 16
"""Most equal shares of a cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupKind:
    """Tensor-parallel groups of one GPU type."""

    gpu: GpuType = spec("Type of its GPUs.")
    tp: int = spec("GPUs of a group.", unit="GPUs", ge=1)
    num_groups: int = spec("Groups that hosts have room for.", unit="1", ge=1)


Recipe = tuple[tuple[GroupKind, int], ...]
"""Kinds with the number of groups of each, in the order of the pipeline."""


def recipes(problem: Problem, free: FreeGpus) -> list[Recipe]:
    """All recipes of free GPUs that the search space allows, each once."""
    found: dict[tuple[tuple[str, int, int], ...], Recipe] = {}
    kinds = _kinds(problem, free)
    for size in range(2, len(kinds) + 1):
        for chosen in combinations(kinds, size):
            for widths in product(*chosen):
                for counts in _counts(problem, widths):
                    recipe = tuple(zip(widths, counts, strict=True))
                    key = tuple((k.gpu.name, k.tp, n) for k, n in recipe)
                    found.setdefault(key, recipe)
    return list(found.values())


def shape_of(
    recipe: Recipe, phase: Phase, layers: tuple[int, ...] | None = None
) -> ReplicaShape:
    """The replica of a recipe; without `layers` they are dealt out evenly."""
    types = tuple(kind.gpu.name for kind, n in recipe for _ in range(n))
    widths = tuple(kind.tp for kind, n in recipe for _ in range(n))
    return ReplicaShape(
        phase=phase,
        gpu_type=types[0],
        stage_gpu_types=types,
        parallelism=Parallelism(
            tp=max(widths),
            pp=len(widths),
            stage_tp=widths if len(set(widths)) > 1 else None,
            stage_layers=layers,
        ),
    )


def _kinds(problem: Problem, free: FreeGpus) -> list[list[GroupKind]]:
    """For each GPU type its groups of different widths; most memory first."""
    wanted = problem.search.tp
    types = {gpu.name: gpu for gpu in problem.cluster.gpu_types()}
    found = []
    for name in usable_gpu_types(problem):
        hosts = [host.num_free for host in free.hosts if host.gpu_type == name]
        widest = max(hosts, default=0)
        widths = [tp for tp in range(widest, 0, -1) if not wanted or tp in wanted]
        splits = [tp for tp in widths if _divides(problem, tp)]
        kinds = [
            GroupKind(
                gpu=types[name], tp=tp, num_groups=sum(num // tp for num in hosts)
            )
            for tp in splits[:NUM_WIDTHS]
        ]
        if kinds:
            found.append(kinds)
    return sorted(found, key=lambda kinds: -kinds[0].gpu.memory_bytes)


def _divides(problem: Problem, tp: int) -> bool:
    return Parallelism(tp=tp).why_not(problem.service.llm) is None


def _counts(problem: Problem, kinds: Sequence[GroupKind]) -> Iterator[tuple[int, ...]]:
    """Numbers of groups of each kind."""
    space = problem.search
    most = min(space.max_pp, problem.service.llm.num_layers)
    budget = space.max_gpus or problem.cluster.num_gpus
    small = range(1, _SMALL_STAGES)
    every = product(*([small] * len(kinds)))
    listed = [counts for counts in every if sum(counts) <= _SMALL_STAGES]
    shares = min(max(kind.num_groups for kind in kinds), _MAX_SHARES)
    for parts in range(1, shares + 1):
        listed.append(tuple(kind.num_groups // parts for kind in kinds))
    for counts in dict.fromkeys(listed):
        fits = all(
            1 <= n <= kind.num_groups for n, kind in zip(counts, kinds, strict=True)
        )
        num_gpus = sum(n * kind.tp for n, kind in zip(counts, kinds, strict=True))
        if fits and sum(counts) <= most and num_gpus <= budget:
            yield counts


def holds_model(problem: Problem, recipe: Recipe) -> bool:
    """Whether its GPUs together have more memory than the weights take."""
    frac = problem.engine.memory.utilisation_frac
    room = sum(kind.gpu.memory_bytes * kind.tp * n for kind, n in recipe)
    (whole,) = stage_shapes(problem.service.llm, Parallelism())
    return frac * room > whole.weight_bytes
