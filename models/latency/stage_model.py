"""One pipeline stage composed from fitted operators, compiled to a `StepTable`.

Steps
    1. Per layer: products, routed experts, two norms, the activation; collectives over
       the stage's ring. All are curves over `TOKEN_KNOTS` that never fall.
    2. Prefill attention becomes ``c * L**2`` and a rest in tokens: two unknowns a
       token count, met exactly by one long prompt and by four of a quarter.
    3. Decode attention becomes ``G(B) + H(B) * sum(C)``: a weighted line through
       contexts from 256 to 32768 tokens at every batch size.
    4. LM head, embedding, hop to the next stage, engine overhead.
    5. Knots dropped where a line stays within `KNOT_TOLERANCE`.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from clusters.fields import spec
from clusters.gpu import GpuType
from clusters.links import GroupLink, LinkKind
from clusters.units import MS_PER_S
from models.communication import (
    CommunicationEfficiency,
    all_reduce_ms,
    pipeline_hop_ms,
)
from models.latency.fit_file import EngineFit
from models.latency.knots import choose_knots
from models.latency.operators.attention import AttentionModel, HeadFormat
from models.latency.operators.collective import AllReduceModel
from models.latency.operators.gemm import GemmModel, GemmShape, Peaks
from models.latency.operators.moe import ExpertShape, MoeModel
from models.latency.operators.surface import Axis, FloatArray, Surface
from models.latency.operators.tokens import TOKEN_KNOTS
from models.latency.step_table import StepTable
from models.latency.weights import PEAK_DTYPE, choose_variant, peak_flops_per_s
from models.shapes import AttentionShape, Gemm, LayerGroup, StageShapes

KNOT_TOLERANCE = 0.004
"""Largest relative distance of the table from the composed curve at its knots."""
MAX_BATCH = 8192.0
_CONTEXTS = np.asarray([512, 1024, 2048, 4096, 8192, 16384, 32768], dtype=np.float64)
_SHORT_PROMPTS = 4.0
"""Prompts of the second composition that separates L**2 from tokens."""
_ATTENTION_TOKENS = (512.0, 65536.0)
"""Token counts at which prefill attention is separated."""
PLAIN_KV_BYTES = 2.0
"""Bytes of a cached element from which the cache counts as unquantised."""
_FAR_FACTOR = 5.0
"""A wide product is all bandwidth or all FLOPs; further out we say so."""
_UNMEASURED_AXES = {"prefill": 3, "decode": 4}
_UNMEASURED_LOG_SLOWDOWN = 0.5
_UNMEASURED_FLOOR_MS = 0.01
"""Attention kernels nobody measured: 61 % of the peaks, as the median kernel."""
_ATTENTION_LAUNCHES, _QK_NORM_LAUNCHES = 4, 8
"""Small kernels before prefill attention: rotary, cache write; norms of q and k."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageModel:
    """What one stage costs on one GPU type with one engine's fitted operators."""

    stage: StageShapes = spec("What a GPU of the stage computes.")
    gpu: GpuType = spec("The GPU.")
    fit: EngineFit = spec("Operators measured on it, or on its nearest relative.")
    ring: GroupLink = spec("Links of the tensor-parallel group.")
    reducer: AllReduceModel | None = spec("Fabric of the ring, None: physics.")
    hop: GroupLink | None = spec("Link to the next stage, None on the last.")
    step_overhead_ms: float = spec("Host time of a step.", unit="ms", ge=0)

    def compile(self) -> StepTable:
        """The step table: curves at the knots they need."""
        linear = self._layers_ms() + self._token_ms()
        head = self._head_ms()
        rest, per_sq_token_ms = self._prefill_attention(linear)
        prefill = linear + rest + head[0] + self._end_ms()
        tokens, prefill_ms = choose_knots(
            TOKEN_KNOTS, np.maximum.accumulate(prefill), tolerance=KNOT_TOLERANCE
        )
        sizes = TOKEN_KNOTS[TOKEN_KNOTS <= MAX_BATCH]
        decode = (linear + head + self._end_ms())[: len(sizes)]
        fixed, slope = self._decode_attention(sizes, decode)
        decode = np.maximum.accumulate(decode + fixed)
        return StepTable(
            prefill_tokens=tokens,
            prefill_ms=prefill_ms,
            prefill_per_sq_token_ms=per_sq_token_ms,
            decode_batch=tuple(sizes.tolist()),
            decode_ms=tuple(decode.tolist()),
            decode_per_kv_token_ms=tuple(slope.tolist()),
        )

    def outside_fit(self) -> tuple[str, ...]:
        """Where the stage leaves what was measured, with what stands in for it."""
        gemms, found = self.fit.variants("gemm"), set()
        heads = () if self.stage.head is None else (self.stage.head,)
        for gemm in (*(g for group in self.stage.groups for g in group.gemms), *heads):
            if gemm.is_expert:
                if choose_variant(gemm.weights, self.fit.variants("moe"), self.gpu):
                    continue
                found.add("routed experts: no kernel in this format, roofline instead")
                continue
            variant = choose_variant(gemm.weights, gemms, self.gpu)
            model = gemms[variant or "bfloat16"]
            widest = model.surface.axes[1].knots[-1], model.surface.axes[2].knots[-1]
            if gemm.n > _FAR_FACTOR * widest[0] or gemm.k > _FAR_FACTOR * widest[1]:
                found.add(
                    f"{gemm.name} {gemm.k} x {gemm.n}: beyond the measured sizes, "
                    "efficiency of the nearest"
                )
        for group in self.stage.groups:
            latent = "latent_" * group.attention.is_latent
            if not self.fit.variants(f"{latent}decode_attention"):
                found.add("latent attention: no kernel measured, roofline instead")
        if self.stage.tp > 1 and self.reducer is not None:
            most = self.reducer.surface.axes[1].knots[-1]
            if self.stage.tp > most:
                found.add(
                    f"all-reduce over {self.stage.tp} GPUs: measured up to {most:.0f}"
                )
        return tuple(sorted(found))

    def _layers_ms(self) -> FloatArray:
        """Step 1: everything that depends on tokens only, at `TOKEN_KNOTS`."""
        total = np.zeros_like(TOKEN_KNOTS)
        for group in self.stage.groups:
            experts = [gemm for gemm in group.gemms if gemm.is_expert]
            layer = sum(
                (self._gemm_ms(gemm) for gemm in group.gemms if not gemm.is_expert),
                np.zeros_like(TOKEN_KNOTS),
            )
            if experts:
                layer = layer + self._moe_ms(experts)
            total += group.num_layers * (layer + self._elementwise_ms(group))
        return total

    def _gemm_ms(self, gemm: Gemm) -> FloatArray:
        fitted = self.fit.variants("gemm")
        variant = choose_variant(gemm.weights, fitted, self.gpu)
        assert variant is not None
        model = fitted[variant]
        assert isinstance(model, GemmModel)
        shape = GemmShape(
            k=gemm.k, n=gemm.n, bytes_per_weight=gemm.weights.bytes_per_weight
        )
        return model.ms(shape, self._peaks(variant))

    def _moe_ms(self, experts: list[Gemm]) -> FloatArray:
        into, out = experts[0], experts[-1]
        fitted = self.fit.variants("moe")
        variant = choose_variant(into.weights, fitted, self.gpu)
        if variant is None:
            return sum(
                (self._experts_as_gemm(gemm) for gemm in experts),
                np.zeros_like(TOKEN_KNOTS),
            )
        model = fitted[variant]
        assert isinstance(model, MoeModel)
        shape = ExpertShape(
            hidden=float(out.n),
            intermediate=float(out.k),
            num_matrices=1 + into.n // out.k,
            num_experts=float(into.num_experts * into.expert_gpus),
            experts_here=float(into.num_experts),
            experts_per_token=float(into.experts_per_token),
            bytes_per_weight=into.weights.bytes_per_weight,
        )
        return model.ms(shape, self._peaks(variant))

    def _experts_as_gemm(self, gemm: Gemm) -> FloatArray:
        """No fused kernel was measured: the roofline of the touched experts."""
        peaks = self._peaks("bfloat16")
        moved = gemm.read_bytes(TOKEN_KNOTS) + gemm.activation_bytes(TOKEN_KNOTS)
        seconds = np.maximum(
            moved / peaks.memory_bytes_per_s,
            gemm.flops(TOKEN_KNOTS) / peaks.flops_per_s,
        )
        return np.asarray(MS_PER_S * seconds)

    def _elementwise_ms(self, group: LayerGroup) -> FloatArray:
        model, rate = self.fit.elementwise, self.gpu.memory_bytes_per_s
        norm = model.ms(
            group.norm_bytes_per_token * TOKEN_KNOTS, memory_bytes_per_s=rate
        )
        total = 2.0 * norm
        if group.activation_bytes_per_token:
            moved = group.activation_bytes_per_token * TOKEN_KNOTS
            total = total + model.ms(moved, memory_bytes_per_s=rate)
        return total

    def _token_ms(self) -> FloatArray:
        """Collectives of all layers, and of the embedding on the first stage."""
        stage = self.stage
        num_bytes = stage.residual_bytes(TOKEN_KNOTS)
        is_first = stage.embedding_bytes > 0
        total = np.zeros_like(TOKEN_KNOTS)
        if is_first:
            total += self.fit.elementwise.launch_ms
        if stage.tp == 1:
            return total
        count = stage.all_reduces + int(is_first)
        if self.reducer is None:
            one = all_reduce_ms(
                num_bytes,
                self.ring,
                num_gpus=stage.tp,
                efficiency=CommunicationEfficiency(),
            )
        else:
            one = self.reducer.ms(
                num_bytes, num_gpus=stage.tp, bytes_per_s=self.ring.bytes_per_s
            )
        return total + count * one

    def _head_ms(self) -> FloatArray:
        if self.stage.head is None:
            return np.zeros_like(TOKEN_KNOTS)
        return self._gemm_ms(self.stage.head)

    def _end_ms(self) -> FloatArray:
        """Step 4: the hop to the next stage, or the host's part of the step."""
        if self.hop is None:
            return np.full_like(TOKEN_KNOTS, self.step_overhead_ms)
        return pipeline_hop_ms(
            self.stage.residual_bytes(TOKEN_KNOTS),
            self.hop,
            efficiency=CommunicationEfficiency(),
        )

    def _prefill_attention(self, linear: FloatArray) -> tuple[FloatArray, float]:
        """Step 2: a rest at `TOKEN_KNOTS`, and the coefficient of the squares."""
        tokens, few = TOKEN_KNOTS, _SHORT_PROMPTS
        one, four = np.zeros_like(tokens), np.zeros_like(tokens)
        windowed, launches = np.zeros_like(tokens), 0
        for shape, layers in self._attention_layers().items():
            kernels = _ATTENTION_LAUNCHES + _QK_NORM_LAUNCHES * shape.qk_norm
            launches += layers * kernels
            if shape.has_short_window:
                windowed += layers * self._prefill_ms(shape, 1.0, tokens)
                continue
            one += layers * self._prefill_ms(shape, 1.0, tokens)
            four += layers * self._prefill_ms(shape, few, np.maximum(tokens / few, 1.0))
        squares = tokens**2 * (1.0 - 1.0 / few)
        low, high = _ATTENTION_TOKENS
        weight = np.where((tokens >= low) & (tokens <= high), 1.0, 0.0)
        weight /= (linear + one) ** 2
        coefficient = float(
            (weight * squares * (one - four)).sum() / (weight * squares**2).sum()
        )
        coefficient = max(coefficient, 0.0)
        rest = one + four - coefficient * tokens**2 * (1.0 + 1.0 / few)
        fixed = launches * self.fit.elementwise.attention_launch_ms
        return rest / 2.0 + windowed + fixed, coefficient

    def _attention_layers(self) -> Counter[AttentionShape]:
        """Layers by attention: groups may differ in their feed-forward only."""
        layers = Counter[AttentionShape]()
        for group in self.stage.groups:
            layers[group.attention] += group.num_layers
        return layers

    def _prefill_ms(
        self, shape: AttentionShape, prompts: float, tokens: FloatArray
    ) -> FloatArray:
        model, heads = self._kernel("prefill", shape)
        streams = np.asarray(prompts * shape.num_heads)
        group = 1.0 if shape.is_latent else shape.num_heads / shape.num_kv_heads
        slowdown = model.surface.slowdown(tokens, streams, group)
        return np.maximum.accumulate(
            heads.prefill_ms(tokens, streams, group) * slowdown
        )

    def _decode_attention(
        self, sizes: FloatArray, linear: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Step 3: G and H at the batch sizes."""
        unbounded = np.zeros((len(sizes), len(_CONTEXTS)))
        windowed = np.zeros_like(sizes)
        for shape, layers in self._attention_layers().items():
            model, heads = self._kernel("decode", shape)
            if shape.has_short_window:
                assert shape.window is not None
                context = np.asarray([float(shape.window)])
            else:
                context = _CONTEXTS
            batch = sizes[:, None]
            kv = 1.0 if shape.is_latent else float(shape.num_kv_heads)
            ratio = shape.num_heads / kv
            time = heads.decode_ms(batch, context, kv, ratio) * model.surface.slowdown(
                batch, context, kv, ratio
            )
            time = np.maximum.accumulate(np.maximum.accumulate(time, 0), 1)
            if shape.has_short_window:
                windowed += layers * time[:, 0]
            else:
                unbounded += layers * time
        weight = 1.0 / (linear[:, None] + unbounded) ** 2
        fixed, per_token = _weighted_line(sizes[:, None] * _CONTEXTS, unbounded, weight)
        return fixed + windowed, _never_cheaper(sizes, per_token)

    def _kernel(
        self, phase: str, shape: AttentionShape
    ) -> tuple[AttentionModel, HeadFormat]:
        """The fitted kernel of the nearest head width in the cache's format."""
        fitted = self.fit.variants(f"{'latent_' * shape.is_latent}{phase}_attention")
        head_dim = shape.prefill_dim / 2.0
        if shape.is_latent and phase == "decode":
            head_dim = shape.cached_dim / 2.0
        wanted = "bfloat16" if shape.kv_element_bytes >= PLAIN_KV_BYTES else "fp8"
        model = _unmeasured(_UNMEASURED_AXES[phase])
        if fitted:
            key = min(fitted, key=lambda key: _distance(key, wanted, head_dim))
            found = fitted[key]
            assert isinstance(found, AttentionModel)
            model = found
        return model, HeadFormat(
            head_dim=head_dim,
            kv_bytes=shape.kv_element_bytes,
            peaks=self._peaks("bfloat16"),
            floor_ms=model.floor_ms,
            window=shape.window if shape.has_short_window else None,
            decode_flops_factor=(
                shape.decode_dim / shape.cached_dim if shape.is_latent else 1.0
            ),
        )

    def _peaks(self, variant: str) -> Peaks:
        rate = peak_flops_per_s(variant, self.gpu)
        if self.gpu.name == self.fit.system:
            rate = self.fit.flops_per_s.get(str(PEAK_DTYPE[variant]), rate)
            memory = self.fit.memory_bytes_per_s
            return Peaks(memory_bytes_per_s=memory, flops_per_s=rate)
        return Peaks(memory_bytes_per_s=self.gpu.memory_bytes_per_s, flops_per_s=rate)


def fabric_for(
    link: GroupLink, candidates: Mapping[str, AllReduceModel], own: str
) -> AllReduceModel | None:
    """The measured fabric of the same kind with the nearest link rate.

    Among equals the GPU's own system (`own`) wins; None for a kind nobody measured.
    """
    same = {
        key: model
        for key, model in sorted(candidates.items())
        if model.kind is link.kind and link.kind is not LinkKind.NETWORK
    }
    if not same:
        return None

    def distance(key: str) -> tuple[float, bool]:
        ratio = same[key].link_bytes_per_s / link.bytes_per_s
        return round(abs(float(np.log(ratio))), 2), key != own

    return same[min(same, key=distance)]


@cache
def _unmeasured(num_axes: int) -> AttentionModel:
    axes = tuple(Axis(name=f"axis {i}", knots=(1.0,)) for i in range(num_axes))
    surface = Surface(axes=axes, log_slowdown=(_UNMEASURED_LOG_SLOWDOWN,))
    return AttentionModel(floor_ms=_UNMEASURED_FLOOR_MS, surface=surface)


def _distance(key: str, wanted: str, head_dim: float) -> tuple[bool, float]:
    """How far a variant such as ``bfloat16/128`` is from the wanted one."""
    kv, _, dim = key.partition("/")
    return kv != wanted, abs(float(np.log(int(dim) / head_dim))) if dim else 0.0


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


def _never_cheaper(sizes: FloatArray, per_token: FloatArray) -> FloatArray:
    """H raised where another request at equal context would make a step faster.

    ``B * H(B)`` must not fall between knots a < b, where H is a line: its derivative
    at b is >= 0 when ``H(b) >= H(a) * b / (2 b - a)``.
    """
    values = per_token.copy()
    for place in range(1, len(values)):
        low, high = sizes[place - 1], sizes[place]
        least = values[place - 1] * high / (2.0 * high - low)
        values[place] = max(values[place], least)
    return values
