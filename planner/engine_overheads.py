"""What a serving engine adds to the operators of a step, and to a request around it.

Idea
    Fitted operators are times of kernels on a busy GPU. An engine's host launches those
    of a step with prompt tokens one by one, which bounds it from below; a decode step
    is a captured graph, which is padded to a captured batch size and still takes some
    time from one kernel to the next. Before its first step a request is parsed,
    tokenised and queued, and its first token is sent after those of other clients:
    no GPU time explains either.

Steps
    1. Prefill curve times the version's factor, at least the host's launch time.
    2. Decode curve times its factor, plus the time between kernels and for requests.
    3. Decode batches padded to the captured sizes; launched one by one beyond them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from clusters.fields import check_fields, spec
from models.latency.operators.latent import LATENT_PROJECTIONS
from models.latency.step_table import StepTable, interpolate, interpolate_array
from models.shapes import LayerGroup, StageShapes

FloatArray = NDArray[np.float64]

_NORMS = 2
_ATTENTION = 2
"""Rotating and caching the new keys, and the kernel itself."""
_LATENT = 4
"""Two norms inside the block, splitting, and joining keys from their two parts."""
_LATENT_PRODUCTS = 2
"""Up-projections of queries and of the cache, between the captured pieces."""
_EXPERTS = 8
"""Choosing (3), permuting, two products, the activation, and summing up."""
_RECURRENCE = 10
"""Convolution, gates, two norms, five kernels over chunks, and the gated norm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOverheads:
    """Constants of one engine, the same for all models and GPUs."""

    request_ms: float = spec(
        "Handling of a request outside its steps: parsing, queueing, first answer.",
        unit="ms",
        ge=0,
        default=0.0,
    )
    launch_ms: float = spec(
        "Host time to launch a kernel in a step with prompt tokens.",
        unit="ms",
        ge=0,
        default=0.0,
    )
    graph_kernel_ms: float = spec(
        "Time from one kernel of a captured graph to the next, beside the kernels.",
        unit="ms",
        ge=0,
        default=0.0,
    )
    step_per_request_ms: float = spec(
        "Time of a decode step for each of its requests (sampling, new inputs).",
        unit="ms",
        ge=0,
        default=0.0,
    )
    answer_per_client_ms: float = spec(
        "Wait of a first token for the tokens of each client of the server, which are "
        "detokenised and sent one after the other.",
        unit="ms",
        ge=0,
        default=0.0,
    )
    draft_acceptance_frac: float = spec(
        "Chance that a drafted token is right, given the ones before it.",
        unit="1",
        ge=0,
        le=1,
        default=0.0,
    )

    def __post_init__(self) -> None:
        check_fields(self)

    def handling_ms(self, clients: float) -> float:
        """Time of a request outside its steps, on a server of so many clients."""
        return self.request_ms + self.answer_per_client_ms * clients

    def tokens_per_step(self, draft_tokens: int) -> float:
        """Mean tokens of a request in a decode step that verifies so many drafts."""
        frac = self.draft_acceptance_frac
        return sum(frac**right for right in range(draft_tokens + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionSkew:
    """Measured engine versions against the one whose operators were fitted."""

    generation: str = spec("GPU generation.")
    prefill_factor: float = spec(
        "Factor on steps with prompt tokens.", unit="1", gt=0, default=1.0
    )
    decode_factor: float = spec("Factor on decode steps.", unit="1", gt=0, default=1.0)

    def __post_init__(self) -> None:
        check_fields(self)


def engine_table(
    table: StepTable,
    stage: StageShapes,
    overheads: EngineOverheads,
    skew: VersionSkew,
    graph_sizes: Sequence[int] = (),
    draft_tokens: int = 0,
    *,
    prefill_graph_tokens: float = 0.0,
) -> StepTable:
    """`table` with what the engine adds.

    Parameters
    ----------
    table, stage
        Step latencies from operators alone, and what a GPU of the stage runs.
    overheads, skew
        The engine's constants, and those for the GPU's generation.
    graph_sizes
        Batch sizes of a rank with a captured graph, rising; (): any, never padded.
    draft_tokens
        Tokens that a layer of multi-token prediction drafts for each decode step,
        which verifies them all; the table is then that of one token on average.
    prefill_graph_tokens
        Steps with up to so many prompt tokens of a rank run captured pieces, from one
        attention to the next; beyond, the host launches their kernels one by one.
    """
    # Attention ranks capture, pad and sample their own requests.
    graph_sizes = [stage.ranks.attention_dp * size for size in graph_sizes]
    launch_ms = overheads.launch_ms * num_kernels(stage)
    knots = np.asarray(table.prefill_tokens)
    operators = skew.prefill_factor * np.asarray(table.prefill_ms)
    tokens, prefill_ms = _at_least(knots, operators, launch_ms)
    if prefill_graph_tokens:
        pieces_ms = overheads.launch_ms * num_piece_launches(stage)
        tokens, prefill_ms = _joined(
            _at_least(knots, operators, pieces_ms),
            (tokens, prefill_ms),
            stage.ranks.attention_dp * prefill_graph_tokens,
        )
    sizes = _batch_knots(table, graph_sizes)
    padded = _padded(sizes, graph_sizes)
    operators = skew.decode_factor * _operators_ms(table, stage, padded, draft_tokens)
    operators += overheads.graph_kernel_ms * num_distances(stage)
    is_captured = sizes <= (graph_sizes[-1] if graph_sizes else np.inf)
    decode_ms = np.where(is_captured, operators, np.maximum(operators, launch_ms))
    requests = stage.ranks.decoded(sizes)
    decode_ms += overheads.step_per_request_ms * requests
    per_kv_token_ms = skew.decode_factor * interpolate_array(
        sizes, table.decode_batch, table.decode_per_kv_token_ms
    )
    tokens_per_step = overheads.tokens_per_step(draft_tokens)
    decode_ms = np.maximum.accumulate(decode_ms) / tokens_per_step
    return replace(
        table,
        prefill_tokens=tuple(tokens.tolist()),
        prefill_ms=tuple(prefill_ms.tolist()),
        prefill_per_sq_token_ms=skew.prefill_factor * table.prefill_per_sq_token_ms,
        decode_batch=tuple(sizes.tolist()),
        decode_ms=tuple(decode_ms.tolist()),
        decode_per_kv_token_ms=tuple((per_kv_token_ms / tokens_per_step).tolist()),
    )


def _operators_ms(
    table: StepTable, stage: StageShapes, batches: FloatArray, draft_tokens: int
) -> FloatArray:
    """Operators of a decode step: all drafts verified at once, then drafted anew.

    The cache of a request is read once for all its tokens. Every draft is a pass
    through one layer more.
    """
    verify_ms = interpolate_array(
        (draft_tokens + 1) * batches, table.decode_batch, table.decode_ms
    )
    if not draft_tokens:
        return verify_ms
    layers = sum(group.num_layers for group in stage.groups)
    one_ms = interpolate_array(batches, table.decode_batch, table.decode_ms)
    return verify_ms + draft_tokens * one_ms / layers


def num_kernels(stage: StageShapes) -> int:
    """Kernels of a step of the stage, as the operators count them."""
    layers = sum(g.num_layers * _kernels_of_layer(g) for g in stage.groups)
    return layers + stage.all_reduces + 2 * stage.exchanges


def num_piece_launches(stage: StageShapes) -> int:
    """Launches of the host in a step whose pieces were captured.

    A layer has a piece, and its attention between two of them: with what belongs to it,
    and with the products inside the block where it is latent.
    """
    return sum(
        group.num_layers
        * (1 + _kernels_of_mixing(group) + _LATENT_PRODUCTS * _is_latent(group))
        for group in stage.groups
    )


def num_distances(stage: StageShapes) -> int:
    """Distances of kernels in a graph that operators do not have.

    A block of latent attention is measured as one, with the distances inside it; sparse
    attention is no such block.
    """
    inside = sum(
        group.num_layers * (_ATTENTION + _LATENT + _num_projections(group) - 1)
        for group in stage.groups
        if group.attentions
        and group.attention.is_latent
        and not group.attention.has_short_window
    )
    return num_kernels(stage) - inside


def _is_latent(group: LayerGroup) -> bool:
    return any(attention.is_latent for attention in group.attentions)


def _num_projections(group: LayerGroup) -> int:
    return sum(gemm.name in LATENT_PROJECTIONS for gemm in group.gemms)


def _kernels_of_layer(group: LayerGroup) -> int:
    dense = sum(not gemm.is_expert for gemm in group.gemms)
    gated = int(any(gemm.name in ("gate_up", "up") for gemm in group.gemms))
    experts = _EXPERTS * group.is_moe
    return _NORMS + dense + gated + experts + _kernels_of_mixing(group)


def _kernels_of_mixing(group: LayerGroup) -> int:
    """Of attention or the recurrence, beside their projections."""
    attentions = sum(
        _ATTENTION + _LATENT * attention.is_latent for attention in group.attentions
    )
    return attentions + _RECURRENCE * (group.recurrence is not None)


def _at_least(
    knots: FloatArray, values: FloatArray, floor: float
) -> tuple[FloatArray, FloatArray]:
    """A rising piecewise-linear curve cut off below, with a knot at the crossing."""
    if values[0] >= floor:
        return knots, values
    above = np.flatnonzero(values > floor)
    if len(above) == 0:
        if len(knots) == 1 or values[-1] <= values[-2]:
            return knots, np.full_like(values, floor)
        # The crossing lies on the last slope, beyond the last knot.
        slope = (values[-1] - values[-2]) / (knots[-1] - knots[-2])
        crossing = knots[-1] + (floor - values[-1]) / slope
        ends = np.asarray([crossing, 2.0 * crossing])
        rest = np.asarray([floor, floor + slope * crossing])
        kept = knots[knots < crossing]
        return np.append(kept, ends), np.append(np.full_like(kept, floor), rest)
    first = int(above[0])
    low, high = first - 1, first
    share = (floor - values[low]) / (values[high] - values[low])
    crossing = knots[low] + share * (knots[high] - knots[low])
    kept = knots > crossing
    return (
        np.concatenate([knots[:1], [crossing], knots[kept]]),
        np.concatenate([[floor, floor], values[kept]]),
    )


def _joined(
    low: tuple[FloatArray, FloatArray], high: tuple[FloatArray, FloatArray], last: float
) -> tuple[FloatArray, FloatArray]:
    """The curve of `low` up to `last` tokens, then that of `high`."""
    if last >= high[0][-1]:
        return low
    ends = np.asarray([last, last + 1.0])
    below, above = low[0] < ends[0], high[0] > ends[1]
    at_ends = [
        interpolate(end, knots.tolist(), values.tolist())
        for end, (knots, values) in zip(ends.tolist(), (low, high), strict=True)
    ]
    return (
        np.concatenate([low[0][below], ends, high[0][above]]),
        np.concatenate([low[1][below], at_ends, high[1][above]]),
    )


def _batch_knots(table: StepTable, graph_sizes: Sequence[int]) -> FloatArray:
    """Batch sizes of the new decode curve: both ends of every padded range."""
    own = np.asarray(table.decode_batch, dtype=np.float64)
    if not graph_sizes:
        return own
    sizes = np.asarray(graph_sizes, dtype=np.float64)
    starts = np.concatenate([[1.0], sizes[:-1] + 1.0, [sizes[-1] + 1.0]])
    beyond = own[own > sizes[-1]]
    return np.unique(np.concatenate([starts, sizes, beyond]))


def _padded(sizes: FloatArray, graph_sizes: Sequence[int]) -> FloatArray:
    """Each batch size as it runs: the next captured one, or itself beyond them."""
    if not graph_sizes:
        return sizes
    captured = np.asarray(graph_sizes, dtype=np.float64)
    place = np.searchsorted(captured, sizes)
    inside = captured[np.minimum(place, len(captured) - 1)]
    return np.where(place < len(captured), inside, sizes)
