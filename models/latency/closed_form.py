"""Closed-form step latency of one pipeline stage on one GPU type (see `roofline`)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clusters.fields import spec
from clusters.gpu import Dtype, GpuType
from clusters.links import GroupLink
from clusters.units import MS_PER_S
from models.communication import all_reduce_ms, pipeline_hop_ms
from models.latency.efficiency import RooflineEfficiency
from models.shapes import Gemm, LayerGroup, StageShapes

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
        per_token_ms = sum(
            group.num_layers * self._windowed_prefill_ms(group)
            for group in self.stage.groups
        )
        device_ms = self._token_ms(tokens) + per_token_ms * tokens
        return self._step_ms(device_ms, tokens, rows=np.ones_like(tokens))

    def prefill_per_sq_token_ms(self) -> float:
        """Time per squared prompt token: half of the pairs are masked."""
        return sum(
            group.num_layers * self._pair_ms(group) / 2
            for group in self.stage.groups
            if not group.attention.has_short_window
        )

    def decode_ms(self, num_requests: FloatArray) -> FloatArray:
        """Time of a decode step without its unwindowed attention."""
        per_request_ms = sum(
            group.num_layers * self._kv_token_ms(group) * (group.attention.window or 0)
            for group in self.stage.groups
            if group.attention.has_short_window
        )
        device_ms = self._token_ms(num_requests) + per_request_ms * num_requests
        return self._step_ms(device_ms, num_requests, rows=num_requests)

    def decode_per_kv_token_ms(self) -> float:
        """Time per token the step attends to in unwindowed layers."""
        return sum(
            group.num_layers * self._kv_token_ms(group)
            for group in self.stage.groups
            if not group.attention.has_short_window
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
        return MS_PER_S * np.maximum(compute_s, moved / self._memory_bytes_per_s)

    def _token_ms(self, tokens: FloatArray) -> FloatArray:
        """What layers do per token: GEMMs, elementwise steps, collectives."""
        total = np.zeros_like(tokens)
        for group in self.stage.groups:
            layer_ms = np.full_like(tokens, self.efficiency.layer_floor_ms)
            for gemm in group.gemms:
                layer_ms += self.gemm_ms(gemm, tokens)
            per_token = (
                group.elementwise_bytes_per_token + group.attention.kv_bytes_per_token
            )
            layer_ms += MS_PER_S * per_token / self._memory_bytes_per_s * tokens
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
        efficiency, stage = self.efficiency, self.stage
        if stage.head is not None:
            device_ms = device_ms + self.gemm_ms(stage.head, rows)
        step_ms = np.maximum(device_ms, efficiency.host_layer_ms * stage.num_layers)
        if self.hop is None:
            return step_ms + efficiency.step_overhead_ms
        return step_ms + pipeline_hop_ms(
            stage.residual_bytes(tokens), self.hop, efficiency=efficiency.communication
        )

    def _pair_ms(self, group: LayerGroup) -> float:
        """Time of one attended (query, key) pair in one layer's prefill."""
        return MS_PER_S * group.attention.pair_flops() / self._attention_flops_per_s

    def _windowed_prefill_ms(self, group: LayerGroup) -> float:
        if not group.attention.has_short_window:
            return 0.0
        return self._pair_ms(group) * (group.attention.window or 0)

    def _kv_token_ms(self, group: LayerGroup) -> float:
        """Time to attend to one cached token in one layer's decode."""
        attention = group.attention
        compute_s = attention.decode_flops_per_kv_token() / self._attention_flops_per_s
        memory_s = attention.kv_bytes_per_token / (
            self.gpu.memory_bytes_per_s * self.efficiency.kv_memory_frac
        )
        return MS_PER_S * max(compute_s, memory_s)

    @property
    def _memory_bytes_per_s(self) -> float:
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
