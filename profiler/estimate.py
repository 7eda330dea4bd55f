"""Estimates for a dry run: bytes and seconds of every point, from the datasheet."""

from collections.abc import Sequence
from dataclasses import dataclass

from clusters.fields import InputError, check_fields, spec
from clusters.gpu import Dtype, GpuType
from models.flops import stage_shapes
from models.parallelism import Parallelism
from profiler.grid import GridLimits, GridPoint, rows_of
from profiler.sections import Section, section_grid
from profiler.subject import Subject

_UNKNOWN_FLOPS_PER_S = 5e10
_UNKNOWN_BYTES_PER_S = 1e10
"""A slow processor: an unknown device is more often slower than thought."""
_NUM_LAYERS = 4
_RUNS_OF_A_LAYER = 150
"""Layer runs of a point: two stacks, warm-up, samples."""
_FIXED_S = 0.15
"""Building the batch, capturing the graph."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PointEstimate:
    """What a point will take."""

    subject: str = spec("Model, shard, part.")
    step: str = spec("The step.")
    role: str = spec("What it is for.")
    memory_bytes: float = spec("Weights and caches.", unit="bytes", ge=0)
    seconds: float = spec("Time to measure it.", unit="s", ge=0)

    def __post_init__(self) -> None:
        check_fields(self)


def estimates(
    subjects: Sequence[Subject],
    limits: GridLimits,
    *,
    sections: Sequence[Section] = (Section.STEPS,),
    gpu: str | None = None,
) -> tuple[PointEstimate, ...]:
    """Every point of a campaign with its bytes and seconds."""
    flops_per_s, bytes_per_s = _rates(gpu)
    found = []
    for subject in subjects:
        grids = [section_grid(subject.part, limits, section) for section in sections]
        for target in (target for grid in grids for target in grid):
            flops, moved, held = _work(subject, target)
            run_s = max(flops / flops_per_s, moved / bytes_per_s)
            found.append(
                PointEstimate(
                    subject=subject.describe(),
                    step=target.point.describe(),
                    role=str(target.role),
                    memory_bytes=held,
                    seconds=_FIXED_S + _RUNS_OF_A_LAYER * run_s,
                )
            )
    return tuple(found)


def _rates(gpu: str | None) -> tuple[float, float]:
    if gpu is None or gpu not in GpuType.names():
        return _UNKNOWN_FLOPS_PER_S, _UNKNOWN_BYTES_PER_S
    found = GpuType.load(gpu)
    try:
        return found.flops_per_s(Dtype.BF16) / 2, found.memory_bytes_per_s / 2
    except InputError:
        return found.flops_per_s(Dtype.FP16) / 2, found.memory_bytes_per_s / 2


def _work(subject: Subject, target: GridPoint) -> tuple[float, float, float]:
    """FLOPs and bytes of one run, and bytes held."""
    point = target.point
    tokens = float(point.prompt_tokens + point.num_decodes)
    (stage,) = stage_shapes(subject.llm, Parallelism(tp=subject.tp))
    if subject.is_ends:
        head = stage.head
        assert head is not None
        rows = float(len(point.new_tokens) + point.num_decodes)
        weights = head.weight_bytes + stage.embedding_bytes
        return head.flops(rows), head.weight_bytes, weights
    group = stage.groups[0]
    gemm_flops = sum(gemm.flops(tokens) for gemm in group.gemms)
    pairs = point.squares / 2
    attention = group.attention
    flops = gemm_flops + attention.pair_flops() * pairs
    flops += attention.decode_flops_per_kv_token() * point.kv_tokens
    weights = group.weight_bytes / group.num_layers
    cache = attention.kv_bytes_per_token * rows_of(point)
    moved = weights + cache + group.elementwise_bytes_per_token * tokens
    return flops, moved, _NUM_LAYERS * (weights + cache)
