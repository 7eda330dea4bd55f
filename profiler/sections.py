"""Sections of a grid: the steps that are fitted, and two that answer questions.

``steps``     what the step table is fitted to and held against
``mixed``     prompt chunks with decodes, and each of the two alone
``sm_share``  a few prefill and decode steps on shares of the SMs
"""

from collections.abc import Sequence
from enum import StrEnum

from models.latency.profile import ENDS
from models.latency.profile_mixed import chunk_of, decodes_of
from models.profile_records import Role, StepPoint
from profiler.grid import (
    GridLimits,
    GridPoint,
    context_tokens,
    decode_point,
    doublings,
    grid_of,
)

SM_SHARES = (0.8, 0.6, 0.5, 0.4, 0.3)
"""Shares that are asked for: where MuxServe looks, and the cheap half."""


class Section(StrEnum):
    """Part of a grid."""

    STEPS = "steps"
    MIXED = "mixed"
    SM_SHARE = "sm_share"


def section_grid(
    part: str,
    limits: GridLimits,
    section: Section,
    *,
    sm_shares: Sequence[float] = (1.0, *SM_SHARES),
) -> tuple[GridPoint, ...]:
    """Points of one section; the ends of a model have the steps only.

    `sm_shares` are the shares of the section of that name, 1 among them if the whole
    device is to be measured too.
    """
    if section is Section.STEPS:
        return grid_of(part, limits)
    if part == ENDS:
        return ()
    if section is Section.MIXED:
        return _probes(_mixed_points(limits))
    return tuple(
        GridPoint(point=point, role=Role.PROBE, sm_share_frac=share)
        for share in sorted(sm_shares, reverse=True)
        for point in _share_points(limits)
    )


def _mixed_points(limits: GridLimits) -> list[StepPoint]:
    """Mixed steps, each after the chunk and the decodes it is made of.

    Chunks around the budgets of Sarathi-Serve (512 and 2048), batches from a few
    decodes to many, with and without a past, at short and at long context.
    """
    small, middle, large = (limits.max_prompt_tokens // n for n in (32, 16, 4))
    past = limits.max_past_tokens // 8
    few, many = (max(1, limits.max_requests // n) for n in (16, 2))
    cases = [
        *((chunk, 0, few, 0.25) for chunk in (small, middle, large)),
        *((chunk, 0, many, 0.25) for chunk in (small, middle, large)),
        (middle, past, few, 0.25),
        (middle, past, many, 0.25),
        (large, past, many, 0.25),
        (middle, 0, few, 1.0),
        (middle, 0, many, 1.0),
    ]
    points: list[StepPoint] = []
    for chunk, before, batch, share in cases:
        decodes = decode_point(batch, context_tokens(batch, limits, share))
        mixed = StepPoint(
            new_tokens=(max(1, chunk),),
            past_tokens=(before,) if before else (),
            num_decodes=decodes.num_decodes,
            kv_tokens=decodes.kv_tokens,
        )
        points += [chunk_of(mixed), decodes_of(mixed), mixed]
    return points


def _share_points(limits: GridLimits) -> list[StepPoint]:
    """Prompts and decode batches, small to large, that the fitted steps hold too."""
    prompts = doublings(16, limits.max_prompt_tokens)[-1::-2][:3]
    batches = [8, 64, limits.max_requests]
    return [
        *(StepPoint(new_tokens=(tokens,)) for tokens in reversed(prompts)),
        *(
            decode_point(batch, max(1, context_tokens(batch, limits, 1.0) // 4))
            for batch in dict.fromkeys(batches)
            if batch <= limits.max_requests
        ),
    ]


def _probes(points: Sequence[StepPoint]) -> tuple[GridPoint, ...]:
    return tuple(
        GridPoint(point=point, role=Role.PROBE) for point in dict.fromkeys(points)
    )
