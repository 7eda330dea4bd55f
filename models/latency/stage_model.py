"""One pipeline stage composed from fitted operators, compiled to a `StepTable`.

Steps
    1. Per layer: products, routed experts, two norms, the activation; collectives over
       the stage's ring. All are curves over `TOKEN_KNOTS` that never fall.
    2. Prefill and decode attention (`models.latency.attention_costs`).
    3. LM head, embedding, hop to the next stage, engine overhead.
    4. Long prefills bounded by those of half the GPUs, where that holds.
    5. Knots dropped where a line stays within `KNOT_TOLERANCE`.
"""

from dataclasses import dataclass, field

import numpy as np

from clusters.fields import spec
from clusters.gpu import GpuType
from clusters.links import GroupLink
from models.communication import (
    CommunicationEfficiency,
    all_reduce_ms,
    pipeline_hop_ms,
)
from models.latency.attention_costs import AttentionCosts
from models.latency.fit_file import EngineFit
from models.latency.operator_costs import OperatorCosts
from models.latency.operators.collective import CollectiveModel
from models.latency.operators.surface import FloatArray
from models.latency.operators.tokens import TOKEN_KNOTS
from models.latency.prefill_curve import PrefillCurve
from models.latency.step_table import StepTable
from models.latency.weights import choose_variant
from models.shapes import LayerGroup, StageShapes

MAX_BATCH = 8192.0
_NORM_SUMS_BYTES = 8.0
"""Two sums of squares of a token, those of its queries and of its keys, in fp32."""
_LAYER_CALLS, _EXPERT_CALLS, _QK_NORM_CALLS = 6, 2, 2
"""Operators of a layer beside its products: two norms, rotary, cache write, attention,
activation; choice of experts and the experts; norms of queries and keys."""
_FAR_FACTOR = 5.0
"""A wide product is all bandwidth or all FLOPs; further out we say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageModel:
    """What one stage costs on one GPU type with one engine's fitted operators."""

    stage: StageShapes = spec("What a GPU of the stage computes.")
    gpu: GpuType = spec("The GPU.")
    fit: EngineFit = spec("Operators measured on it, or on its nearest relative.")
    products: EngineFit | None = spec(
        "Where products were measured on a nearer relative.", default=None
    )
    ring: GroupLink = spec("Links of the tensor-parallel group.")
    reducer: CollectiveModel | None = spec("Fabric of the ring, None: physics.")
    hop: GroupLink | None = spec("Link to the next stage, None on the last.")
    step_overhead_ms: float = spec("Host time of a step.", unit="ms", ge=0)
    peers: tuple[EngineFit, ...] = spec(
        "Other engines' operators on the same system (`relatives.peers_of`).",
        default=(),
    )
    weaker: tuple[EngineFit, ...] = spec(
        "The engine's on weaker systems (`relatives.weaker_fits`).", default=()
    )
    experts: EngineFit | None = spec(
        "Where the kernels of the routed experts were measured, None: with the rest.",
        default=None,
    )
    experts_variant: str = spec(
        "Measured format whose kernels they run, empty: that of their weights.",
        default="",
    )
    eager_call_ms: float = spec(
        "Host time of every operator, 0: captured in CUDA graphs.",
        unit="ms",
        ge=0,
        default=0.0,
    )
    operators: OperatorCosts = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        is_split = self.stage.ranks.cp > 1
        operators = OperatorCosts(
            gpu=self.gpu,
            fit=self.fit,
            products=self.products,
            takes_blocks=not is_split,
            peers=self.peers,
            experts=self.experts,
            experts_variant=self.experts_variant,
            bounds=tuple(
                OperatorCosts(
                    gpu=GpuType.load(fit.system), fit=fit, takes_blocks=not is_split
                )
                for fit in (*self.peers, *self.weaker)
            ),
        )
        object.__setattr__(self, "operators", operators)

    def compile(self, prefill: PrefillCurve | None = None) -> StepTable:
        """The step table: curves at the knots they need.

        `prefill` replaces the stage's own, where something bounds it.
        """
        curve = prefill or self.prefill()
        tokens, prefill_ms = curve.knots()
        sizes = TOKEN_KNOTS[TOKEN_KNOTS <= MAX_BATCH]
        linear = self.layers_ms(decode=True) + self.collectives_ms()
        linear += self.head_ms() + self.end_ms(TOKEN_KNOTS)
        decode = linear[: len(sizes)]
        fixed, slope = self.attention.decode(sizes, decode)
        decode = np.maximum(decode + fixed, self.host_ms + self.end_ms(sizes))
        decode = np.maximum.accumulate(decode)
        return StepTable(
            prefill_tokens=tokens,
            prefill_ms=prefill_ms,
            prefill_per_sq_token_ms=curve.per_sq_token_ms,
            decode_batch=tuple(sizes.tolist()),
            decode_ms=tuple(decode.tolist()),
            decode_per_kv_token_ms=tuple(slope.tolist()),
        )

    def prefill(self) -> PrefillCurve:
        """Prefill of any number of tokens, at `TOKEN_KNOTS`."""
        linear = self.layers_ms() + self.collectives_ms()
        rest, per_sq_token_ms = self.attention.prefill(linear)
        total = np.maximum(linear + rest + self.head_ms()[0], self.host_ms)
        total += self.end_ms(TOKEN_KNOTS)
        return PrefillCurve(
            linear_ms=np.maximum.accumulate(total), per_sq_token_ms=per_sq_token_ms
        )

    def outside_fit(self) -> tuple[str, ...]:
        """Where the stage leaves what was measured, with what stands in for it."""
        found = set()
        heads = () if self.stage.head is None else (self.stage.head,)
        for gemm in (*(g for group in self.stage.groups for g in group.gemms), *heads):
            if gemm.is_expert:
                if choose_variant(gemm.weights, self.fit.variants("moe"), self.gpu):
                    continue
                found.add("routed experts: no kernel in this format, roofline instead")
                continue
            _, model, _ = self.operators.gemm_model(gemm.weights)
            widest = model.surface.axes[1].knots[-1], model.surface.axes[2].knots[-1]
            if gemm.n > _FAR_FACTOR * widest[0] or gemm.k > _FAR_FACTOR * widest[1]:
                found.add(
                    f"{gemm.name} {gemm.k} x {gemm.n}: beyond the measured sizes, "
                    "efficiency of the nearest"
                )
        for group in self.stage.groups:
            if group.indexer is not None:
                found.add("sparse attention: its kernels, not the measured whole")
            if self.operators.latent_block(group, "decode") is not None:
                continue
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

    @property
    def host_ms(self) -> float:
        """Host time of a step's operators, which the GPU cannot run ahead of."""
        calls = self.stage.all_reduces
        for group in self.stage.groups:
            products = sum(not gemm.is_expert for gemm in group.gemms)
            each = _LAYER_CALLS + products + _EXPERT_CALLS * group.is_moe
            each += _QK_NORM_CALLS * group.attention.qk_norm
            calls += group.num_layers * each
        return self.eager_call_ms * calls

    @property
    def attention(self) -> AttentionCosts:
        """Attention of the stage's layers."""
        return AttentionCosts(groups=self.stage.groups, costs=self.operators)

    def layers_ms(
        self, *, own: bool = True, routed: bool = True, decode: bool = False
    ) -> FloatArray:
        """Step 1: what depends on tokens only, at `TOKEN_KNOTS`.

        `own` is everything but the routed experts, `routed` they alone.
        """
        total, costs = np.zeros_like(TOKEN_KNOTS), self.operators
        heads = () if self.stage.head is None else (self.stage.head,)
        costs.price(
            (*(g for group in self.stage.groups for g in costs.own(group)), *heads)
        )
        for group in self.stage.groups:
            experts = [gemm for gemm in group.gemms if gemm.is_expert]
            layer = np.zeros_like(TOKEN_KNOTS)
            if own:
                layer = layer + costs.own_ms(group, decode=decode)
            if experts and routed:
                layer = layer + costs.experts_ms(experts, decode=decode)
            if own:
                layer = layer + self._elementwise_ms(group)
            total += group.num_layers * layer
        return total

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

    def collectives_ms(self) -> FloatArray:
        """Collectives of all layers, and of the embedding, at `TOKEN_KNOTS`."""
        stage = self.stage
        num_bytes = stage.residual_bytes(TOKEN_KNOTS)
        is_first = stage.embedding_bytes > 0
        total = np.zeros_like(TOKEN_KNOTS)
        if is_first:
            total += self.fit.elementwise.launch_ms
        if stage.tp == 1:
            return total
        count = stage.all_reduces + int(is_first)
        total += count * self._all_reduce_ms(num_bytes)
        if stage.norm_reduces:
            sums = _NORM_SUMS_BYTES * TOKEN_KNOTS
            total += stage.norm_reduces * self._all_reduce_ms(sums)
        return total

    def _all_reduce_ms(self, num_bytes: FloatArray) -> FloatArray:
        """One all-reduce over the stage's ring."""
        if self.reducer is None:
            return all_reduce_ms(
                num_bytes,
                self.ring,
                num_gpus=self.stage.tp,
                efficiency=CommunicationEfficiency(),
            )
        return self.reducer.ms(
            num_bytes, num_gpus=self.stage.tp, bytes_per_s=self.ring.bytes_per_s
        )

    def head_ms(self) -> FloatArray:
        """LM head on as many rows, at `TOKEN_KNOTS`."""
        if self.stage.head is None:
            return np.zeros_like(TOKEN_KNOTS)
        return self.operators.gemm_ms(self.stage.head)

    def end_ms(self, tokens: FloatArray) -> FloatArray:
        """Step 3: the hop to the next stage, or the host's part of the step."""
        if self.hop is None:
            return np.full_like(tokens, self.step_overhead_ms)
        return pipeline_hop_ms(
            self.stage.residual_bytes(tokens),
            self.hop,
            efficiency=CommunicationEfficiency(),
        )
