"""Grid: the few points that pin a step table down, and where to look again.

Idea
    A step table bends where kernels saturate, so points double from small to large;
    prompts of the same total length but different squares separate attention from the
    rest, and every batch size is measured at two contexts or more. Points between them
    are held out: they tell the error, and where it is too large they become fitted
    points and new ones between are held out (adaptive refinement).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from clusters.fields import check_fields, spec
from models.latency.profile import ENDS
from models.latency.step_table import StepTable
from models.profile_records import Role, StepPoint, StepRecord

_FIRST_TOKENS = 16
_BEFORE_HOLDOUT = 0.6
"""Of the fitted points, those that are measured before the held-out ones."""
_TILE = 256
"""Tokens of a tile edge: one token more costs a whole new wave of tiles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GridLimits:
    """How far the grid reaches."""

    max_prompt_tokens: int = spec(
        "Largest prefill step.", unit="tokens", ge=64, default=8192
    )
    max_past_tokens: int = spec(
        "Most cached tokens before a chunk.", unit="tokens", ge=0, default=16384
    )
    max_requests: int = spec(
        "Largest decode batch.", unit="requests", ge=4, default=256
    )
    max_context_tokens: int = spec(
        "Longest context of a decode.", unit="tokens", ge=32, default=8192
    )
    max_kv_tokens: int = spec(
        "Most tokens a decode step attends to.", unit="tokens", ge=64, default=524288
    )

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class GridPoint:
    """A point and what it is for."""

    point: StepPoint = spec("The step.")
    role: Role = spec("To fit, to hold out, or to look at.", default=Role.FIT)
    sm_share_frac: float = spec(
        "Share of the SMs to run it on.", unit="1", gt=0, le=1, default=1.0
    )

    def __post_init__(self) -> None:
        check_fields(self)


def grid_of(part: str, limits: GridLimits) -> tuple[GridPoint, ...]:
    """The points that a part of a model is fitted to, the most telling first."""
    if part == ENDS:
        return _ends_grid(limits)
    fit = _alternate(
        _interleave(_prefill_fit(limits)), _interleave(_decode_fit(limits))
    )
    fitted = _with_role(_unique(fit), Role.FIT)
    held = [*_prefill_holdout(limits), *_decode_holdout(limits)]
    # A cut that leaves no held-out point would leave a fit whose error nobody knows.
    first = round(_BEFORE_HOLDOUT * len(fitted))
    return (
        *fitted[:first],
        *_with_role([p for p in _unique(held) if p not in fit], Role.HOLDOUT),
        *fitted[first:],
        *_with_role(_tile_edges(limits), Role.PROBE),
    )


def num_rows(points: Iterable[GridPoint]) -> int:
    """Rows of the KV cache that all points fit in."""
    return max(rows_of(each.point) for each in points)


def rows_of(point: StepPoint) -> int:
    """Rows of the KV cache that a point fills."""
    return sum(point.new_tokens) + sum(point.past_tokens) + int(point.kv_tokens)


def decode_point(num_requests: int, context_tokens: int) -> StepPoint:
    """A decode step of requests with the same context."""
    return StepPoint(
        num_decodes=num_requests, kv_tokens=float(num_requests * context_tokens)
    )


def refine(
    records: Sequence[StepRecord], table: StepTable, *, target_frac: float
) -> tuple[GridPoint, ...]:
    """What to measure next where the fit misses held-out points by too much.

    The worst held-out point is fitted from now on, and a new one halfway to its fitted
    neighbour takes its place.

    Parameters
    ----------
    records
        Records of one part, prefill and decode.
    table
        What was fitted to them.
    target_frac
        Relative error that is good enough.
    """
    misses = []
    for record in records:
        if record.role is not Role.HOLDOUT or record.step is None:
            continue
        predicted = predicted_ms(table, record.point)
        miss = abs(predicted / record.step.ms - 1.0)
        if miss > target_frac:
            misses.append((miss, record))
    if not misses:
        return ()
    worst = max(misses, key=lambda pair: pair[0])[1]
    fitted = GridPoint(point=worst.point, role=Role.FIT)
    between = _halfway(worst, records)
    if between is None:
        return (fitted,)
    return fitted, GridPoint(point=between, role=Role.HOLDOUT)


def predicted_ms(table: StepTable, point: StepPoint) -> float:
    """What a table says of a step, in ms."""
    past = point.past_tokens or None
    return table.mixed_step_ms(
        point.new_tokens, past, point.num_decodes, point.kv_tokens
    )


def _halfway(worst: StepRecord, records: Sequence[StepRecord]) -> StepPoint | None:
    """A point between a missed one and its farther fitted neighbour, in log scale."""
    point = worst.point
    size = _size(point)
    taken = {
        _size(r.point)
        for r in records
        if r.role is Role.FIT and r.point.phase == point.phase
    }
    below = max((s for s in taken if s < size), default=size)
    above = min((s for s in taken if s > size), default=size)
    neighbour = above if above * below > size * size else below
    middle = round(math.sqrt(size * neighbour))
    if middle in (size, neighbour) or middle < 1:
        return None
    if point.phase == "decode":
        context = max(1, round(point.kv_tokens / point.num_decodes))
        return decode_point(middle, context)
    return StepPoint(new_tokens=(middle,))


def _size(point: StepPoint) -> int:
    return point.num_decodes if point.phase == "decode" else point.prompt_tokens


def doublings(first: int, last: int) -> list[int]:
    """`first`, twice that and so on; ends with `last`."""
    found = []
    size = first
    while size < last:
        found.append(size)
        size *= 2
    return [*found, last]


def _prefill_fit(limits: GridLimits) -> list[StepPoint]:
    most, past = limits.max_prompt_tokens, limits.max_past_tokens
    first = min(_FIRST_TOKENS, most // 4)
    points = [StepPoint(new_tokens=(n,)) for n in doublings(first, most)]
    points += [
        StepPoint(new_tokens=(most // 8,) * 8),
        StepPoint(new_tokens=(max(1, most // 32),) * 32),
    ]
    if past:
        points += [
            StepPoint(new_tokens=(most // 16,), past_tokens=(past,)),
            StepPoint(new_tokens=(most // 4,), past_tokens=(past // 2,)),
        ]
    return points


def _prefill_holdout(limits: GridLimits) -> list[StepPoint]:
    most, past = limits.max_prompt_tokens, limits.max_past_tokens
    sizes = [3 * most // 4, 3 * most // 16, 3 * most // 64]
    points = [StepPoint(new_tokens=(n,)) for n in sizes if n >= 1]
    points.append(StepPoint(new_tokens=(most // 6,) * 3))
    if past:
        points.append(StepPoint(new_tokens=(most // 8,), past_tokens=(past // 3,)))
    return points


def _decode_fit(limits: GridLimits) -> list[StepPoint]:
    points = []
    batches = doublings(1, limits.max_requests)
    if limits.max_requests >= 128:
        batches += [3 * limits.max_requests // 8, 3 * limits.max_requests // 4]
    for batch in sorted(batches):
        high = context_tokens(batch, limits, 1.0)
        contexts = {max(1, high // 16), high}
        if batch in (8, 64, limits.max_requests):
            contexts.add(max(1, high // 4))
        points += [decode_point(batch, context) for context in sorted(contexts)]
    return points


def _decode_holdout(limits: GridLimits) -> list[StepPoint]:
    most = limits.max_requests
    shares = (3, 6, 20)
    batches = sorted({min(3, most), *(max(2, n * most // 32) for n in shares)})
    contexts = (0.5, 0.25, 0.6, 0.35)
    return [
        decode_point(batch, context_tokens(batch, limits, share))
        for batch, share in zip(batches, contexts, strict=False)
    ]


def context_tokens(batch: int, limits: GridLimits, share: float) -> int:
    """A share of the longest context that a decode batch of this size may have."""
    most = min(limits.max_context_tokens, limits.max_kv_tokens // batch)
    return max(1, int(most * share))


def _tile_edges(limits: GridLimits) -> list[StepPoint]:
    """One token beyond each edge; the edges themselves are fitted."""
    edges = [_TILE * 2**k for k in range(4) if _TILE * 2**k < limits.max_prompt_tokens]
    return [StepPoint(new_tokens=(edge + 1,)) for edge in edges]


def _ends_grid(limits: GridLimits) -> tuple[GridPoint, ...]:
    tokens = doublings(max(1, limits.max_prompt_tokens // 64), limits.max_prompt_tokens)
    batches = [*doublings(1, limits.max_requests)[::2], limits.max_requests]
    fit = [StepPoint(new_tokens=(n,)) for n in tokens[::2] + tokens[-1:]]
    fit += [decode_point(batch, 1) for batch in batches]
    held = [
        StepPoint(new_tokens=(3 * limits.max_prompt_tokens // 8,)),
        decode_point(max(2, 3 * limits.max_requests // 8), 1),
    ]
    return (
        *_with_role(_unique(_interleave(_unique(fit))), Role.FIT),
        *_with_role(held, Role.HOLDOUT),
    )


def _interleave(points: Sequence[StepPoint]) -> list[StepPoint]:
    """The ends first, then the middle, then between: a cut leaves the range covered."""
    if len(points) < 3:
        return list(points)
    order = [0, len(points) - 1]
    gaps = [(0, len(points) - 1)]
    while gaps:
        low, high = gaps.pop(0)
        if high - low < 2:
            continue
        middle = (low + high) // 2
        order.append(middle)
        gaps += [(low, middle), (middle, high)]
    return [points[index] for index in order]


def _alternate(first: list[StepPoint], second: list[StepPoint]) -> list[StepPoint]:
    """One of each in turn: a cut leaves both phases with points."""
    pairs = zip_longest(first, second)
    return [point for pair in pairs for point in pair if point is not None]


def _unique(points: Sequence[StepPoint]) -> list[StepPoint]:
    return list(dict.fromkeys(points))


def _with_role(points: Sequence[StepPoint], role: Role) -> list[GridPoint]:
    return [GridPoint(point=point, role=role) for point in points]


def scaled_to_rows(limits: GridLimits, max_rows: int) -> GridLimits:
    """The limits with the KV tokens that `max_rows` rows of cache can hold."""
    return replace(
        limits,
        max_kv_tokens=max(64, min(limits.max_kv_tokens, max_rows)),
        max_past_tokens=min(
            limits.max_past_tokens, max(0, max_rows - limits.max_prompt_tokens)
        ),
    )
