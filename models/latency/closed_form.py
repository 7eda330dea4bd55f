"""Closed-form step latency of one pipeline stage on one GPU type (see `roofline`)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clusters.fields import spec
from clusters.gpu import Dtype, GpuType
from clusters.links import GroupLink
from clusters.units import MS_PER_S
from models.communication import all_reduce_ms, pipeline_hop_ms
from models.latency import recurrence_costs
from models.latency.efficiency import RooflineEfficiency
from models.latency.recurrence_costs import RecurrenceRates
from models.shapes import AttentionShape, Gemm, StageShapes

FloatArray = NDArray[np.float64]

_LOW_BIT = frozenset({Dtype.FP8, Dtype.INT8, Dtype.FP4})
_TILE_ROWS = 128
_TILE_COLUMNS = 128
"""Output tile of one thread block of a tensor-core GEMM (CUTLASS default)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRoofline:
    """Closed-form step latency of one stage; `compile_stage` samples it."""

    stage: StageShapes = spec("What a GPU of the stage computes.")
    gpu: GpuType = spec("The GPU.")
    ring: GroupLink = spec("Links of the tensor-parallel group.")
    hop: GroupLink | None = spec("Link to the next stage, None on the last.")
    efficiency: RooflineEfficiency = spec("Shares of the peaks.")

    def prefill_ms(self, tokens: FloatArray) -> FloatArray:
        """Time of `tokens` prompt tokens without their unwindowed attention."""
        device_ms = self.layers_ms(tokens) + self.windowed_prefill_ms(tokens)
        return self._step_ms(device_ms, tokens, rows=np.ones_like(tokens))

    def windowed_prefill_ms(self, tokens: FloatArray) -> FloatArray:
        """Time of prompt tokens in attention that sees a window, or a state."""
        per_token_ms = sum(
            layers * self.pair_ms(attention) * (attention.window or 0)
            for layers, attention in self._attentions(windowed=True)
        )
        return per_token_ms * tokens + recurrence_costs.prefill_ms(
            self.stage.groups, tokens, self._recurrence
        )

    def prefill_per_sq_token_ms(self) -> float:
        """Time per squared prompt token: half of the pairs are masked."""
        return sum(
            layers * self.pair_ms(attention) / 2
            for layers, attention in self._attentions(windowed=False)
        )

    def decode_ms(self, num_requests: FloatArray) -> FloatArray:
        """Time of a decode step without its unwindowed attention."""
        windowed_ms = self.windowed_decode_ms(num_requests)
        device_ms = self.layers_ms(num_requests) + windowed_ms
        return self._step_ms(device_ms, num_requests, rows=num_requests)

    def windowed_decode_ms(self, num_requests: FloatArray) -> FloatArray:
        """Time of decodes in attention that sees a window, or a state."""
        per_request_ms = sum(
            layers * self._kv_token_ms(attention) * (attention.window or 0)
            for layers, attention in self._attentions(windowed=True)
        )
        return per_request_ms * num_requests + recurrence_costs.decode_ms(
            self.stage.groups, num_requests, self._recurrence
        )

    def decode_per_kv_token_ms(self) -> float:
        """Time per token the step attends to in unwindowed layers."""
        return sum(
            layers * self._kv_token_ms(attention)
            for layers, attention in self._attentions(windowed=False)
        )

    def gemm_ms(self, gemm: Gemm, tokens: FloatArray) -> FloatArray:
        """The longer of streaming the bytes and doing the FLOPs of one product."""
        rate = self._gemm_flops_per_s(gemm.weights.compute_dtype)
        routed = tokens * gemm.experts_per_token / gemm.expert_gpus
        rows = np.minimum(routed, _TILE_ROWS)
        # The last wave of tiles is partly idle; its tiles are as tall as the batch.
        wave = 2.0 * gemm.k * _TILE_COLUMNS * self.gpu.num_sms * rows
        idle_flops = self.efficiency.partial_wave_frac * wave
        compute_s = (gemm.flops(tokens) + idle_flops) / rate
        moved = gemm.read_bytes(tokens) + gemm.activation_bytes(tokens)
        return MS_PER_S * np.maximum(compute_s, moved / self.memory_bytes_per_s)

    def routed_ms(self, tokens: FloatArray) -> FloatArray:
        """Routed experts of all layers."""
        total = np.zeros_like(tokens)
        for group in self.stage.groups:
            for gemm in group.gemms:
                if gemm.is_expert:
                    total += group.num_layers * self.gemm_ms(gemm, tokens)
        return total

    def layers_ms(self, tokens: FloatArray, *, routed: bool = True) -> FloatArray:
        """What layers do per token: GEMMs, elementwise steps, collectives."""
        total = np.zeros_like(tokens)
        for group in self.stage.groups:
            layer_ms = np.full_like(tokens, self.efficiency.layer_floor_ms)
            for gemm in group.gemms:
                if routed or not gemm.is_expert:
                    layer_ms += self.gemm_ms(gemm, tokens)
            per_token = group.elementwise_bytes_per_token + sum(
                attention.kv_bytes_per_token for attention in group.attentions
            )
            layer_ms += MS_PER_S * per_token / self.memory_bytes_per_s * tokens
            total += group.num_layers * layer_ms
        return total + self.stage.all_reduces * all_reduce_ms(
            self.stage.residual_bytes(tokens),
            self.ring,
            num_gpus=self.stage.tp,
            efficiency=self.efficiency.communication,
        )

    def _step_ms(
        self, device_ms: FloatArray, tokens: FloatArray, *, rows: FloatArray
    ) -> FloatArray:
        """Add the LM head on `rows`, host time, and the hop or the step's overhead."""
        if self.stage.head is not None:
            device_ms = device_ms + self.gemm_ms(self.stage.head, rows)
        return np.maximum(device_ms, self.host_ms) + self.end_ms(tokens)

    @property
    def host_ms(self) -> float:
        """Least time of a step: that of launching its layers."""
        return self.efficiency.host_layer_ms * self.stage.num_layers

    def end_ms(self, tokens: FloatArray) -> FloatArray:
        """The hop to the next stage, or the overhead of the step."""
        efficiency = self.efficiency
        if self.hop is None:
            return np.full_like(tokens, efficiency.step_overhead_ms)
        return pipeline_hop_ms(
            self.stage.residual_bytes(tokens),
            self.hop,
            efficiency=efficiency.communication,
        )

    def _attentions(self, *, windowed: bool) -> Iterator[tuple[int, AttentionShape]]:
        """Numbers of layers by attention, those with a short window or the others."""
        for group in self.stage.groups:
            for attention in group.attentions:
                if attention.has_short_window is windowed:
                    yield group.num_layers, attention

    def pair_ms(self, attention: AttentionShape) -> float:
        """Time of one attended (query, key) pair in one layer's prefill."""
        return MS_PER_S * attention.pair_flops() / self._attention_flops_per_s

    def _kv_token_ms(self, attention: AttentionShape) -> float:
        """Time to attend to one cached token in one layer's decode."""
        compute_s = attention.decode_flops_per_kv_token() / self._attention_flops_per_s
        memory_s = attention.kv_bytes_per_token / (
            self.gpu.memory_bytes_per_s * self.efficiency.kv_memory_frac
        )
        return MS_PER_S * max(compute_s, memory_s)

    @property
    def _recurrence(self) -> RecurrenceRates:
        _, peak = self._peak(Dtype.BF16)
        return RecurrenceRates.of(self.gpu, peak_flops_per_s=peak)

    @property
    def memory_bytes_per_s(self) -> float:
        """Rate of streaming from memory."""
        return self.gpu.memory_bytes_per_s * self.efficiency.memory_frac

    @property
    def _attention_flops_per_s(self) -> float:
        _, peak = self._peak(Dtype.BF16)
        return peak * self.efficiency.attention_compute_frac

    def _gemm_flops_per_s(self, dtype: Dtype) -> float:
        used, peak = self._peak(dtype)
        if used in _LOW_BIT:
            return peak * self.efficiency.low_bit_compute_frac
        return peak * self.efficiency.compute_frac

    def _peak(self, dtype: Dtype) -> tuple[Dtype, float]:
        """`dtype`, or the next wider format the GPU multiplies in, and its peak.

        That is what engines do: weights are unpacked in the kernel.
        """
        native = self.gpu.dtypes
        wider = (Dtype.FP8,) if dtype is Dtype.FP4 else ()
        for candidate in (dtype, *wider, Dtype.BF16, Dtype.FP16):
            if candidate in native:
                return candidate, self.gpu.flops_per_s(candidate)
        return Dtype.FP32, self.gpu.flops_per_s(Dtype.FP32)
