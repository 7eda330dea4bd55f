"""Step costs: the least time that a request can cost one pipeline stage.

A prefill step of the prompts L_i takes F(sum L_i) + c * sum L_i^2. With phi the least
F(x)/x over any batch, a prompt costs a stage at least phi*L + c*L^2. A decode step of a
batch B takes G(B) + H(B)*S, so a token costs a stage at least g = min G(B)/B plus
h = min H(B) for each token it attends to. The KV cache holds what a batch attends to,
so it limits the mean batch too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from clusters.fields import spec
from models.latency.step_table import StepTable, interpolate_array
from planner.slo import Slo
from planner.workload.requests import Requests

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCost:
    """Least mean time of a stage for a request, given how long decode steps may be.

    Infinite where too many requests must miss the limits.
    """

    fixed_ms: float = spec("Whatever the steps.", unit="ms", ge=0, default=0.0)
    num_steps: float = spec("Decode steps of a request.", unit="1", ge=0, default=0.0)
    good_frac: float = spec(
        "Share of these that a limit holds for.", unit="1", ge=0, le=1, default=0.0
    )
    share_by_kv_ms: float = spec(
        "Share of a step that a token costs at least, by the KV cache.",
        unit="ms",
        ge=0,
        default=0.0,
    )
    steps_ms: tuple[float, ...] = spec("Lengths of steps.", unit="ms", default=(0.0,))
    shares_ms: tuple[float, ...] = spec(
        "Least mean share of a token in steps of these mean lengths, falling.",
        unit="ms",
        default=(0.0,),
    )

    @property
    def shortest_step_ms(self) -> float:
        """Length of the shortest decode step; 0 when no limit matters."""
        return self.steps_ms[0] if self.good_frac > 0 else 0.0

    def and_fixed(self, fixed_ms: float) -> "StageCost":
        """The same with more time that does not depend on the steps."""
        return replace(self, fixed_ms=self.fixed_ms + fixed_ms)

    def at_ms(self, step_ms: float) -> float:
        """Cost when good tokens take steps of this mean length, in ms."""
        good = _falling_at(self.steps_ms, self.shares_ms, step_ms)
        share_ms = (1.0 - self.good_frac) * self.shares_ms[-1]
        if self.good_frac > 0:
            share_ms += self.good_frac * good
        return self.fixed_ms + self.num_steps * max(self.share_by_kv_ms, share_ms)

    def step_ms(self, cost_ms: float) -> float:
        """Least mean length of good tokens' steps at a cost, in ms; maybe infinite."""
        if self.good_frac <= 0 or self.num_steps <= 0:
            return 0.0
        share_ms = (cost_ms - self.fixed_ms) / self.num_steps
        good_ms = share_ms - (1.0 - self.good_frac) * self.shares_ms[-1]
        wanted = good_ms / self.good_frac * (1.0 + _ROUNDING)
        if wanted < self.shares_ms[-1]:
            return math.inf
        return float(np.interp(wanted, self.shares_ms[::-1], self.steps_ms[::-1]))


_ROUNDING = 1e-12


def prefill_cost_ms(
    stage: StepTable,
    requests: Requests,
    max_batch_tokens: int,
    slo: Slo | None = None,
    *,
    good_tokens: float = math.inf,
) -> float:
    """Least mean time of a stage for the prompt of a request, in ms.

    With an `slo`, good requests share steps of at most `good_tokens` tokens, and those
    that may miss are taken to be the longest; infinity when too many are longer.
    """
    lengths = _sorted_prompts(requests)
    top = max(float(max_batch_tokens), float(lengths[-1]))
    per_token_ms = np.full(len(lengths), least_prompt_token_ms(stage, top))
    if slo is not None and good_tokens < top:
        num_good = len(lengths) - slo.max_misses(len(lengths))
        if num_good > 0 and lengths[num_good - 1] > good_tokens:
            return math.inf
        per_token_ms[:num_good] = least_prompt_token_ms(stage, good_tokens)
    per_sq_ms = min(stage.prefill_per_sq_token_ms, stage.mixed_per_sq_token_ms)
    squares = per_sq_ms * lengths**2
    return float((per_token_ms * lengths + squares).mean())


@lru_cache(maxsize=8)
def _sorted_prompts(requests: Requests) -> FloatArray:
    """Prompt lengths, rising; requests are told apart by which they are."""
    return np.sort(requests.input_tokens.astype(np.float64))


def least_prompt_token_ms(stage: StepTable, top: float) -> float:
    """Least F(x)/x of steps up to `top` tokens, in ms: at a knot of F or at an end."""
    top = max(top, 1.0)
    inner = np.asarray(stage.prefill_tokens, dtype=np.float64)
    sizes = np.unique(np.clip(np.append(inner[inner > 0], [1.0, top]), 1.0, top))
    times = interpolate_array(sizes, stage.prefill_tokens, stage.prefill_ms)
    return float((times / sizes).min())


def largest_prefill(stages: Sequence[StepTable], limit_ms: float) -> float:
    """Most tokens of a prefill step that passes all stages within a limit; 0: none."""
    knots = np.unique(np.concatenate([[1.0], *(s.prefill_tokens for s in stages)]))
    sizes = knots[knots >= 1.0]
    sizes = np.append(sizes, 2.0 * sizes[-1])  # the last slope goes on
    total = np.zeros_like(sizes)
    for stage in stages:
        total += interpolate_array(sizes, stage.prefill_tokens, stage.prefill_ms)
    within = np.flatnonzero(total <= limit_ms)
    if len(within) == 0:
        return 0.0
    last = int(within[-1])
    if last == len(sizes) - 1:
        slope = (total[-1] - total[-2]) / (sizes[-1] - sizes[-2])
        if slope <= 0:
            return math.inf
        return float(sizes[-1] + (limit_ms - total[-1]) / slope)
    rise = (limit_ms - total[last]) / (total[last + 1] - total[last])
    return float(sizes[last] + rise * (sizes[last + 1] - sizes[last]))


def decode_cost(
    stage: StepTable,
    requests: Requests,
    max_batch: int,
    slo: Slo | None = None,
    *,
    kv_tokens: float = math.inf,
    prompt_token_ms: float | None = None,
) -> StageCost:
    """Least mean time of a stage for all decode steps of a request.

    Where decodes ride in the steps of prompts, whose tokens cost `prompt_token_ms` at
    least, a decode may cost that and its row of what decode steps have beside their
    linear layers: max(0, G(B) - F(B)) / B.

    A step attends to at most the `kv_tokens` of the cache, so N tokens that attend to
    A tokens in all take at least A / kv_tokens steps: the mean of 1/B over the tokens
    is at least A / (N * kv_tokens), and the mean cost at least the lower convex hull
    of G(B)/B over 1/B there (Jensen).

    With an `slo` on TPOT, the requests that must meet it decode in steps of some length
    on average. A step of B requests takes at least t(B) = G(B) + H(B)*B and costs each
    of them G(B)/B; on the lower convex hull of these points the mean cost is at least
    the hull at the mean step length (Jensen). The requests that may miss are taken to
    be the longest.
    """
    steps = (requests.output_tokens - 1).astype(np.float64)
    if not steps.any():
        return StageCost()
    fixed, slope = stage.decode_arrays(max(1, max_batch))
    sizes = np.arange(1, len(fixed))
    share_ms = fixed[1:] / sizes
    if prompt_token_ms is not None:
        linear = interpolate_array(
            sizes.astype(np.float64), stage.prefill_tokens, stage.prefill_ms
        )
        rows_ms = np.maximum(fixed[1:] - linear, 0.0) / sizes
        if stage.mixed is not None:  # decodes may cost less in company than alone
            added_ms, mixed_slope = stage.mixed_arrays(len(sizes))
            rows_ms = np.minimum(rows_ms, added_ms[1:] / sizes)
            slope = np.minimum(slope, mixed_slope)
        share_ms = np.minimum(share_ms, prompt_token_ms + rows_ms)
    attended = steps * requests.input_tokens + steps * (steps + 1) / 2
    fewest_steps = float(attended.sum() / steps.sum()) / kv_tokens
    inverse, shares = lower_hull(-1.0 / sizes, share_ms)
    step_ms, good_ms = lower_hull(fixed[1:] + slope[1:] * sizes, share_ms)
    good = 0.0
    if slo is not None and slo.tpot_ms is not None:
        num_good = len(steps) - slo.max_misses(len(steps))
        # May be 0: all of them may be requests of one token.
        good = float(np.sort(steps)[:num_good].sum() / steps.sum())
    return StageCost(
        fixed_ms=float(slope[1:].min()) * float(attended.mean()),
        num_steps=float(steps.mean()),
        good_frac=good,
        share_by_kv_ms=_falling_at(inverse, shares, -min(1.0, fewest_steps)),
        steps_ms=step_ms,
        shares_ms=good_ms,
    )


def lower_hull(
    x: FloatArray, y: FloatArray
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Lower convex hull of points, made non-increasing: its corners' x and y."""
    order = np.lexsort((y, x))
    hull: list[tuple[float, float]] = []
    for px, py in zip(x[order].tolist(), y[order].tolist(), strict=True):
        if hull and py >= hull[-1][1]:
            continue
        while len(hull) > 1 and _is_above(hull[-2], hull[-1], (px, py)):
            hull.pop()
        hull.append((px, py))
    return tuple(p[0] for p in hull), tuple(p[1] for p in hull)


def _falling_at(x: Sequence[float], y: Sequence[float], at: float) -> float:
    """A falling line at one place; infinity left of its first point."""
    return math.inf if at < x[0] else float(np.interp(at, x, y))


def _is_above(
    a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]
) -> bool:
    """Whether `b` lies on or above the line from `a` to `c`."""
    return (b[1] - a[1]) * (c[0] - a[0]) >= (c[1] - a[1]) * (b[0] - a[0])
