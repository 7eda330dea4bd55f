"""Attention of a stage's layers in the two forms a `StepTable` has.

Steps
    1. Prefill attention becomes ``c * L**2`` and a rest in tokens: two unknowns a
       token count, met exactly by one long prompt and by four of a quarter.
    2. Decode attention becomes ``G(B) + H(B) * sum(C)``: a weighted line through
       contexts from 512 to 32768 tokens at every batch size.
"""

import math
from collections import Counter
from dataclasses import dataclass
from functools import cache

import numpy as np

from clusters.fields import spec
from models.latency import recurrence_costs
from models.latency.operator_costs import OperatorCosts
from models.latency.operators.attention import AttentionModel, HeadFormat
from models.latency.operators.latent import LatentModel, LatentShape
from models.latency.operators.surface import Axis, FloatArray, Surface
from models.latency.operators.tokens import TOKEN_KNOTS
from models.latency.recurrence_costs import RecurrenceRates
from models.latency.weights import kv_variant
from models.shapes import AttentionShape, LayerGroup

_CONTEXTS = np.asarray([512, 1024, 2048, 4096, 8192, 16384, 32768], dtype=np.float64)
_SHORT_PROMPTS = 4.0
"""Prompts of the second composition that separates L**2 from tokens."""
_ATTENTION_TOKENS = (512.0, 65536.0)
"""Token counts at which prefill attention is separated."""
_UNMEASURED_AXES = {"prefill": 3, "decode": 4}
_UNMEASURED_LOG_SLOWDOWN = 0.5
_UNMEASURED_FLOOR_MS = 0.01
"""Attention kernels nobody measured: 61 % of the peaks, as the median kernel."""
_ATTENTION_LAUNCHES, _QK_NORM_LAUNCHES = 4, 8
"""Small kernels before prefill attention: rotary, cache write; norms of q and k."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _PrefillParts:
    """Prefill attention of some token counts: in one prompt, and in four."""

    one: FloatArray = spec("Unwindowed, in one prompt.", unit="ms")
    four: FloatArray = spec("Unwindowed, in four.", unit="ms")
    windowed: FloatArray = spec("What grows with the tokens.", unit="ms")
    fixed_ms: float = spec("Launches.", unit="ms")

    def rest(self, tokens: FloatArray, coefficient: float) -> FloatArray:
        """The mean of both without `coefficient` times their squares."""
        both = coefficient * tokens**2 * (1.0 + 1.0 / _SHORT_PROMPTS)
        rest = self.one + self.four - both
        return rest / 2.0 + self.windowed + self.fixed_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionCosts:
    """What the attention of a stage's layers costs."""

    groups: tuple[LayerGroup, ...] = spec("Layers by shape.")
    costs: OperatorCosts = spec("Fitted operators on one GPU.")

    def prefill(self, linear: FloatArray) -> tuple[FloatArray, float]:
        """Step 1: a rest at `TOKEN_KNOTS`, and the coefficient of the squares.

        `linear` is the rest of the step at `TOKEN_KNOTS`, which weighs the errors.
        """
        tokens, few = TOKEN_KNOTS, _SHORT_PROMPTS
        parts = self._prefill_parts(tokens)
        one, four = parts.one, parts.four
        squares = tokens**2 * (1.0 - 1.0 / few)
        low, high = _ATTENTION_TOKENS
        weight = np.where((tokens >= low) & (tokens <= high), 1.0, 0.0)
        weight /= (linear + one) ** 2
        coefficient = float(
            (weight * squares * (one - four)).sum() / (weight * squares**2).sum()
        )
        coefficient = max(coefficient, 0.0)
        return parts.rest(tokens, coefficient), coefficient

    def prefill_rest(self, tokens: FloatArray, coefficient: float) -> FloatArray:
        """What `prefill` leaves beside its coefficient, at any rising `tokens`."""
        return self._prefill_parts(tokens).rest(tokens, coefficient)

    def _prefill_parts(self, tokens: FloatArray) -> "_PrefillParts":
        one, four = np.zeros_like(tokens), np.zeros_like(tokens)
        windowed, launches = np.zeros_like(tokens), 0
        few = _SHORT_PROMPTS
        for shape, layers in self.layers().items():
            kernels = _ATTENTION_LAUNCHES + _QK_NORM_LAUNCHES * shape.qk_norm
            launches += layers * kernels
            if shape.has_short_window:
                windowed += layers * self.prompts_ms(shape, 1.0, tokens)
                continue
            one += layers * self.prompts_ms(shape, 1.0, tokens)
            four += layers * self.prompts_ms(shape, few, np.maximum(tokens / few, 1.0))
        for model, block, layers in self._blocks("prefill"):
            one += layers * self._block_ms(model, block, 1.0, tokens)
            four += layers * self._block_ms(
                model, block, few, np.maximum(tokens / few, 1.0)
            )
        fixed = launches * self.costs.fit.elementwise.attention_launch_ms
        windowed += recurrence_costs.prefill_ms(self.groups, tokens, self._recurrence)
        return _PrefillParts(one=one, four=four, windowed=windowed, fixed_ms=fixed)

    def decode(
        self, sizes: FloatArray, linear: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Step 2: G and H at the batch sizes; `linear` is the rest of the step."""
        unbounded = np.zeros((len(sizes), len(_CONTEXTS)))
        windowed = np.zeros_like(sizes)
        longer = self._longer_context
        for shape, layers in self.layers().items():
            model, heads = self._kernel("decode", shape)
            if shape.has_short_window:
                assert shape.window is not None
                context = np.asarray([float(shape.window)])
            else:
                context = _CONTEXTS
            batch = sizes[:, None]
            kv = 1.0 if shape.is_latent else float(shape.num_kv_heads)
            ratio = shape.num_heads / kv
            time = heads.decode_ms(batch, context, kv, ratio)
            time = time * model.decode_slowdown(batch, context * longer, kv, ratio)
            time = np.maximum(time, heads.least_decode_ms(batch, context, kv))
            time = np.maximum.accumulate(np.maximum.accumulate(time, 0), 1)
            if shape.has_short_window:
                windowed += layers * time[:, 0]
            else:
                unbounded += layers * time
        unbounded += self._blocks_decode_ms(sizes)
        windowed += recurrence_costs.decode_ms(self.groups, sizes, self._recurrence)
        weight = 1.0 / (linear[:, None] + unbounded) ** 2
        fixed, per_token = _weighted_line(sizes[:, None] * _CONTEXTS, unbounded, weight)
        return fixed + windowed, never_cheaper(sizes, per_token)

    @property
    def _longer_context(self) -> float:
        """Context that the measured GPU reads in the time of one token here."""
        costs = self.costs
        measured = costs.measured("bfloat16", costs.fit)
        if measured is None:
            return 1.0
        own = costs.peaks("bfloat16").memory_bytes_per_s
        return measured.memory_bytes_per_s / own

    @property
    def _recurrence(self) -> RecurrenceRates:
        costs = self.costs
        peak = costs.peaks("bfloat16").flops_per_s
        return RecurrenceRates.of(
            costs.gpu, peak_flops_per_s=peak, engine=costs.fit.engine
        )

    def layers(self) -> Counter[AttentionShape]:
        """Layers by attention: groups may differ in their feed-forward only.

        Without layers of latent attention that was measured as one block.
        """
        layers = Counter[AttentionShape]()
        for group in self.groups:
            if self.costs.latent_block(group, "decode") is None:
                for attention in group.attentions:
                    layers[attention] += group.num_layers
        return layers

    def _blocks(self, phase: str) -> list[tuple[LatentModel, LatentShape, int]]:
        """Blocks of latent attention, and how many layers have them."""
        layers = Counter[LatentShape]()
        models = dict[LatentShape, LatentModel]()
        for group in self.groups:
            found = self.costs.latent_block(group, phase)
            if found is not None:
                model, block = found
                models[block] = model
                layers[block] += group.num_layers
        return [(models[block], block, count) for block, count in layers.items()]

    def _block_ms(
        self, model: LatentModel, block: LatentShape, prompts: float, tokens: FloatArray
    ) -> FloatArray:
        """One block in prompts of rising `tokens` each."""
        peaks = self.costs.peaks("bfloat16")
        ideal = block.prefill_ms(tokens, prompts, peaks, model.floor_ms)
        slowdown = model.surface.slowdown(tokens, prompts, block.num_heads)
        return np.maximum.accumulate(ideal * slowdown)

    def _blocks_decode_ms(self, sizes: FloatArray) -> FloatArray:
        """All blocks in decode steps, at most as long as their bounds."""
        total = np.zeros((len(sizes), len(_CONTEXTS)))
        blocks = self._blocks("decode")
        for model, block, layers in blocks:
            total += layers * self._block_decode_ms(model, block, sizes)
        for costs in self.costs.bounds:
            there = AttentionCosts(groups=self.groups, costs=costs)
            if len(there._blocks("decode")) == len(blocks):
                total = np.minimum(total, there._blocks_decode_ms(sizes))
        return total

    def _block_decode_ms(
        self, model: LatentModel, block: LatentShape, sizes: FloatArray
    ) -> FloatArray:
        """One block in decode steps, shape ``(num_sizes, num_contexts)``."""
        batch, peaks = sizes[:, None], self.costs.peaks("bfloat16")
        ideal = block.decode_ms(batch, _CONTEXTS, peaks, model.floor_ms)
        time = ideal * model.surface.slowdown(batch, _CONTEXTS, block.num_heads)
        return np.asarray(np.maximum.accumulate(np.maximum.accumulate(time, 0), 1))

    def prompts_ms(
        self, shape: AttentionShape, prompts: float, tokens: FloatArray
    ) -> FloatArray:
        """Causal attention of one layer in prompts of rising `tokens` each."""
        model, heads = self._kernel("prefill", shape)
        streams = np.asarray(prompts * shape.prefill_heads)
        group = 1.0 if shape.is_latent else shape.num_heads / shape.num_kv_heads
        slowdown = model.prefill_slowdown(tokens, streams, group)
        return np.maximum.accumulate(
            heads.prefill_ms(tokens, streams, group) * slowdown
        )

    def shortest_ms(self, phase: str, shape: AttentionShape) -> float:
        """Shortest kernel of one layer in a phase."""
        return self._kernel(phase, shape)[0].floor_ms

    def _kernel(
        self, phase: str, shape: AttentionShape
    ) -> tuple[AttentionModel, HeadFormat]:
        """The fitted kernel of the nearest head width in the cache's format."""
        kind = f"{'latent_' * shape.is_latent}{phase}_attention"
        fitted = self.costs.fit.variants(kind)
        head_dim = shape.prefill_dim / 2.0
        if shape.is_latent and phase == "decode":
            head_dim = shape.cached_dim / 2.0
        wanted = kv_variant(shape.kv_element_bytes)
        model = _unmeasured(_UNMEASURED_AXES[phase])
        if fitted:
            key = min(fitted, key=lambda key: _distance(key, wanted, head_dim))
            found = fitted[key]
            assert isinstance(found, AttentionModel)
            model = found
        return model, HeadFormat(
            head_dim=head_dim,
            kv_bytes=shape.kv_element_bytes,
            peaks=self.costs.peaks("bfloat16"),
            floor_ms=model.floor_ms,
            window=shape.window if shape.has_short_window else None,
            decode_flops_factor=(
                shape.decode_dim / shape.cached_dim if shape.is_latent else 1.0
            ),
        )


@cache
def _unmeasured(num_axes: int) -> AttentionModel:
    axes = tuple(Axis(name=f"axis {i}", knots=(1.0,)) for i in range(num_axes))
    surface = Surface(axes=axes, log_slowdown=(_UNMEASURED_LOG_SLOWDOWN,))
    return AttentionModel(floor_ms=_UNMEASURED_FLOOR_MS, surface=surface)


def _distance(key: str, wanted: str, head_dim: float) -> tuple[bool, float]:
    """How far a variant such as ``bfloat16/128`` is from the wanted one."""
    kv, _, dim = key.partition("/")
    return kv != wanted, abs(math.log(int(dim) / head_dim)) if dim else 0.0


def _weighted_line(
    x: FloatArray, y: FloatArray, weight: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Intercept and slope of each row's weighted least-squares line, both >= 0."""
    total = weight.sum(axis=1)
    mean_x = (weight * x).sum(axis=1) / total
    mean_y = (weight * y).sum(axis=1) / total
    dx, dy = x - mean_x[:, None], y - mean_y[:, None]
    slope = (weight * dx * dy).sum(axis=1) / (weight * dx * dx).sum(axis=1)
    slope = np.clip(slope, 0.0, mean_y / mean_x)
    return mean_y - slope * mean_x, slope


def never_cheaper(
    sizes: FloatArray, per_token: FloatArray, *, apart: float = 0.0
) -> FloatArray:
    """H raised where another request at equal context would make a step faster.

    ``B * H(B)`` must not fall between knots a < b, where H is a line: its derivative
    at b is >= 0 when ``H(b) >= H(a) * b / (2 b - a)``. Knots no more than `apart` from
    each other have no batch in between: there ``b * H(b) >= a * H(a)`` will do.
    """
    values = per_token.copy()
    for place in range(1, len(values)):
        low, high = sizes[place - 1], sizes[place]
        share = high / (2.0 * high - low) if high - low > apart else low / high
        values[place] = max(values[place], values[place - 1] * share)
    return values
