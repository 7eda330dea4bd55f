"""Time of single operators at `TOKEN_KNOTS` on one GPU with one engine's fits."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from clusters.fields import spec
from clusters.gpu import GpuType
from clusters.units import MS_PER_S
from models.latency.fit_file import EngineFit
from models.latency.operators.gemm import GemmModel, GemmShape, Peaks
from models.latency.operators.latent import (
    LATENT_PROJECTIONS,
    LatentModel,
    LatentShape,
)
from models.latency.operators.moe import ExpertShape, MoeModel
from models.latency.operators.surface import FloatArray
from models.latency.operators.tokens import TOKEN_KNOTS
from models.latency.weights import (
    PEAK_DTYPE,
    choose_variant,
    kv_variant,
    peak_flops_per_s,
)
from models.llm import WeightFormat
from models.shapes import AttentionShape, Gemm, LayerGroup

_SHARED_EXPERTS = frozenset({"gate_up", "up", "down"})
"""Products of the shared experts, by name, in a layer that routes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorCosts:
    """Fitted operators at the rates of one GPU."""

    gpu: GpuType = spec("The GPU.")
    fit: EngineFit = spec("Operators measured on it, or on its nearest relative.")
    products: EngineFit | None = spec(
        "Where products were measured on a nearer relative.", default=None
    )
    takes_blocks: bool = spec(
        "Latent attention as the measured block; False where its parts are split.",
        default=True,
    )
    peers: tuple[EngineFit, ...] = spec(
        "Other engines there: a product takes the quickest measured.", default=()
    )
    experts: EngineFit | None = spec(
        "Where the routed experts were measured, None: with the rest.", default=None
    )
    experts_variant: str = spec(
        "Measured format whose kernels the routed experts run, empty: their own.",
        default="",
    )
    bounds: tuple["OperatorCosts", ...] = spec(
        "Other engines there, and weaker GPUs: a block of latent attention takes no "
        "longer in decode.",
        default=(),
    )
    # Groups of layers and both phases share most of their products.
    _products: dict[Gemm, FloatArray] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _experts: dict[tuple[tuple[Gemm, ...], str], FloatArray] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _blocks: dict[
        tuple[AttentionShape, str], tuple[LatentModel, LatentShape] | None
    ] = field(default_factory=dict, init=False, repr=False, compare=False)
    _peaks: dict[str, Peaks] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _gemms: dict[str, tuple[GemmModel, EngineFit]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _variants: dict[WeightFormat, str] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        for fit in (self.fit, self.products):
            for variant, model in ({} if fit is None else fit.variants("gemm")).items():
                assert fit is not None
                assert isinstance(model, GemmModel)
                self._gemms[variant] = model, fit

    def price(self, gemms: Iterable[Gemm]) -> None:
        """Find the times of many dense products at once; `gemm_ms` then has them."""
        by_variant: dict[str, dict[Gemm, GemmShape]] = defaultdict(dict)
        for gemm in gemms:
            if gemm.is_expert or gemm in self._products:
                continue
            variant, _, _ = self.gemm_model(gemm.weights)
            by_variant[variant][gemm] = GemmShape(
                k=gemm.k, n=gemm.n, bytes_per_weight=gemm.weights.bytes_per_weight
            )
        for variant, shapes in by_variant.items():
            model, fit = self._gemms[variant]
            times = np.min(
                [
                    each.ms_each(
                        tuple(shapes.values()),
                        self.peaks(variant),
                        self.measured(variant, fit),
                    )
                    for each in (model, *self._peer_models(variant, fit))
                ],
                axis=0,
            )
            self._products.update(zip(shapes, times, strict=True))

    def _peer_models(self, variant: str, fit: EngineFit) -> list[GemmModel]:
        """Products in the same format as other engines measured them."""
        if fit is not self.fit:
            return []
        found = [peer.variants("gemm").get(variant) for peer in self.peers]
        return [model for model in found if isinstance(model, GemmModel)]

    def gemm_ms(self, gemm: Gemm) -> FloatArray:
        """Time of a dense product."""
        if gemm not in self._products:
            self.price((gemm,))
        return self._products[gemm]

    def gemm_model(self, weights: WeightFormat) -> tuple[str, GemmModel, EngineFit]:
        """Variant and model of products in a weight format, and the fit they are of."""
        if weights not in self._variants:
            variant = choose_variant(weights, self._gemms, self.gpu)
            assert variant is not None
            self._variants[weights] = variant
        variant = self._variants[weights]
        return variant, *self._gemms[variant]

    def experts_ms(self, experts: list[Gemm], *, decode: bool = False) -> FloatArray:
        """Time of the routed experts of a layer, all their matrices together.

        Kernels of another format were measured with other experts: in decode, where
        those are all floor, they take no longer than the format's own.
        """
        found = self._experts_as(experts, self.experts_variant)
        if decode and self.experts_variant:
            found = np.minimum(found, self._experts_as(experts, ""))
        return found

    def _experts_as(self, experts: list[Gemm], variant: str) -> FloatArray:
        key = tuple(experts), variant
        if key not in self._experts:
            self._experts[key] = self._experts_ms(experts, variant)
        return self._experts[key]

    def _experts_ms(self, experts: list[Gemm], wanted: str) -> FloatArray:
        into, out = experts[0], experts[-1]
        fit = self.experts or self.fit
        fitted = fit.variants("moe")
        variant = choose_variant(into.weights, fitted, self.gpu)
        if variant is None:
            return sum(
                (self._roofline_ms(gemm) for gemm in experts),
                np.zeros_like(TOKEN_KNOTS),
            )
        if wanted in fitted:
            variant = wanted
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
        return model.ms(shape, self.peaks(variant), self.measured(variant, fit))

    def own_ms(self, group: LayerGroup, *, decode: bool) -> FloatArray:
        """Time of a layer's products but the routed experts.

        A latent-attention block that was measured as one is left to its attention. In
        decode the up-projection of the latent is absorbed, and engines run shared
        experts beside the routed ones on a second stream (TensorRT-LLM, vLLM and SGLang
        do with CUDA graphs): what counts of them is what takes longer.
        """
        total, shared = np.zeros_like(TOKEN_KNOTS), np.zeros_like(TOKEN_KNOTS)
        experts = [gemm for gemm in group.gemms if gemm.is_expert]
        for gemm in self.own(group):
            if decode and gemm.name == "kv_b":
                total = total + self._absorbed_ms(gemm)
            elif decode and experts and gemm.name in _SHARED_EXPERTS:
                shared = shared + self.gemm_ms(gemm)
            else:
                total = total + self.gemm_ms(gemm)
        if shared.any():
            total = total + np.maximum(
                shared - self.experts_ms(experts, decode=True), 0.0
            )
        return np.maximum.accumulate(total)

    def own(self, group: LayerGroup) -> list[Gemm]:
        """Dense products of a layer outside a block that was measured as one."""
        block = self.latent_block(group, "decode") is not None
        inside = LATENT_PROJECTIONS if block else frozenset()
        return [g for g in group.gemms if not g.is_expert and g.name not in inside]

    def latent_block(
        self, group: LayerGroup, phase: str
    ) -> tuple[LatentModel, LatentShape] | None:
        """The measured block of latent attention, None where only kernels were.

        Sparse attention reads other tokens, so it is no such block.
        """
        attention = group.attention
        if not self.takes_blocks or not attention.is_latent:
            return None
        key = attention, phase
        if key not in self._blocks:
            self._blocks[key] = self._latent_block(group, phase)
        return self._blocks[key]

    def _latent_block(
        self, group: LayerGroup, phase: str
    ) -> tuple[LatentModel, LatentShape] | None:
        attention = group.attention
        fitted = self.fit.variants(f"latent_{phase}_block")
        if not fitted or attention.has_short_window:
            return None
        projections = [g for g in group.gemms if g.name in LATENT_PROJECTIONS]
        widest = max(projections, key=lambda gemm: gemm.num_weights)
        kv = kv_variant(attention.kv_element_bytes)
        formats = {key.partition("/")[0] for key in fitted}
        wanted = choose_variant(widest.weights, formats, self.gpu)
        key = f"{wanted}/{kv}"
        if key not in fitted:
            key = min(fitted, key=lambda other: not other.startswith(f"{wanted}/"))
        model = fitted[key]
        assert isinstance(model, LatentModel)
        return model, self._latent_shape(attention, projections)

    def _latent_shape(
        self, attention: AttentionShape, projections: list[Gemm]
    ) -> LatentShape:
        seconds = 0.0
        for gemm in projections:
            variant, _, _ = self.gemm_model(gemm.weights)
            seconds += gemm.flops(1.0) / self.peaks(variant).flops_per_s
        return LatentShape(
            num_heads=float(attention.num_heads),
            weight_bytes=sum(gemm.weight_bytes for gemm in projections),
            row_elements=float(sum(gemm.k + gemm.n for gemm in projections)),
            flops_s=seconds,
            prefill_dim=float(attention.prefill_dim),
            decode_dim=float(attention.decode_dim),
            cached_dim=attention.cached_dim,
            kv_bytes=attention.kv_element_bytes,
        )

    def _absorbed_ms(self, up: Gemm) -> FloatArray:
        """Queries into the latent and outputs out of it, with the weights of `up`."""
        fitted = self.fit.variants("latent_absorbed")
        variant = choose_variant(up.weights, fitted, self.gpu)
        if variant is None:
            return self.gemm_ms(up)
        model = fitted[variant]
        assert isinstance(model, GemmModel)
        shape = GemmShape(
            k=up.k, n=up.n // 2, bytes_per_weight=up.weights.bytes_per_weight
        )
        measured = self.measured(variant, self.fit)
        return 2.0 * model.ms(shape, self.peaks(variant), measured)

    def peaks(self, variant: str) -> Peaks:
        """Rates a variant could at best reach: as measured, or of the other GPU."""
        if variant not in self._peaks:
            self._peaks[variant] = self._peaks_of(variant)
        return self._peaks[variant]

    def measured(self, variant: str, fit: EngineFit) -> Peaks | None:
        """Peaks of the GPU that `fit` was measured on, None: it is this one."""
        if fit.system == self.gpu.name:
            return None
        key = f"{variant} on {fit.system}"
        if key not in self._peaks:
            rates = fit.flops_per_s
            self._peaks[key] = Peaks(
                memory_bytes_per_s=fit.memory_bytes_per_s,
                flops_per_s=rates.get(str(PEAK_DTYPE[variant]), rates["bf16"]),
            )
        return self._peaks[key]

    def _peaks_of(self, variant: str) -> Peaks:
        rate = peak_flops_per_s(variant, self.gpu)
        if self.gpu.name == self.fit.system:
            rate = self.fit.flops_per_s.get(str(PEAK_DTYPE[variant]), rate)
            memory = self.fit.memory_bytes_per_s
            return Peaks(memory_bytes_per_s=memory, flops_per_s=rate)
        return Peaks(memory_bytes_per_s=self.gpu.memory_bytes_per_s, flops_per_s=rate)

    def _roofline_ms(self, gemm: Gemm) -> FloatArray:
        """No fused kernel was measured: the roofline of the touched experts."""
        peaks = self.peaks("bfloat16")
        moved = gemm.read_bytes(TOKEN_KNOTS) + gemm.activation_bytes(TOKEN_KNOTS)
        seconds = np.maximum(
            moved / peaks.memory_bytes_per_s,
            gemm.flops(TOKEN_KNOTS) / peaks.flops_per_s,
        )
        return np.asarray(MS_PER_S * seconds)
