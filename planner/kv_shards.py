"""KV shards: which part of a KV cache goes from which GPU to which.

The GPU that holds a layer on one replica sends to the GPUs that hold it on the other.
Where stages hold (nearly) the same numbers of layers on the same numbers of GPUs all
parts are equal, and `KvPaths.transfer` deals them out. Where they do not, a pair of
stages has the bytes of the layers that both hold, in one part a GPU of the wider stage.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Protocol

from models.memory import kv_shares
from models.parallelism import Parallelism
from planner.kv_paths import KvPaths, Shard, Transfer
from planner.problem import Problem


class Seated(Protocol):
    """A replica on its GPUs."""

    @property
    def parallelism(self) -> Parallelism:
        """How the model is split."""
        ...

    @property
    def stage_gpus(self) -> tuple[tuple[int, ...], ...]:
        """GPUs of each stage."""
        ...

    @property
    def gpu_indices(self) -> tuple[int, ...]:
        """All its GPUs, stage by stage."""
        ...


def kv_transfer(problem: Problem, source: Seated, target: Seated) -> Transfer:
    """The transfer of a KV cache between two replicas."""
    paths = KvPaths.of(problem.cluster)
    if _is_even(problem, source) and _is_even(problem, target):
        return paths.transfer(source.gpu_indices, target.gpu_indices)
    return paths.spread(kv_shards(problem, source, target))


def kv_shards(problem: Problem, source: Seated, target: Seated) -> tuple[Shard, ...]:
    """Parts of a KV cache at the workload's mean prompt; shares add up to 1."""
    service = problem.service
    shares = kv_shares(service.llm, service.workload.mean_input_tokens)
    return _shards(
        shares,
        (source.parallelism.layers_per_stage(service.llm), source.stage_gpus),
        (target.parallelism.layers_per_stage(service.llm), target.stage_gpus),
    )


_Stages = tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]
"""Layers and GPUs of every stage."""


@lru_cache(maxsize=1024)
def _shards(
    shares: tuple[float, ...], source: _Stages, target: _Stages
) -> tuple[Shard, ...]:
    found = []
    for held, senders in zip(_spans(source[0]), source[1], strict=True):
        for wanted, takers in zip(_spans(target[0]), target[1], strict=True):
            both = range(max(held.start, wanted.start), min(held.stop, wanted.stop))
            num = max(len(senders), len(takers))
            share = sum(shares[layer] for layer in both) / num
            if share > 0:
                found += [
                    (senders[i % len(senders)], takers[i % len(takers)], share)
                    for i in range(num)
                ]
    return tuple(found)


def _spans(layers: Sequence[int]) -> list[range]:
    """Layers of each stage, counted from 0."""
    return [range(a, b) for a, b in pairwise(accumulate(layers, initial=0))]


def _is_even(problem: Problem, replica: Seated) -> bool:
    """Whether its GPUs hold equal parts of a KV cache, to one layer."""
    layers = replica.parallelism.layers_per_stage(problem.service.llm)
    widths = replica.parallelism.stage_widths
    return max(layers) - min(layers) <= 1 and len(set(widths)) == 1
