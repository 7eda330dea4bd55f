"""Roofline: step latency of any catalogue GPU from first principles.

Idea
    Every matrix product takes the longer of streaming its bytes and doing its FLOPs, at
    the share of the datasheet peak that good kernels reach. Attention, collectives over
    the actual links and fixed per-layer and per-step costs add to that. One closed form
    per stage is then sampled to the piecewise-linear knots of a `StepTable`.

Reference
    Williams, Waterman, Patterson, "Roofline: An Insightful Visual Performance Model for
    Multicore Architectures", CACM 2009.

Steps
    1. GEMMs: max(bytes / HBM, FLOPs / tensor cores), with a partial last wave of tiles.
    2. Elementwise steps: bytes / HBM.
    3. Two all-reduces a layer over the stage's ring, one hop to the next stage.
    4. Attention: sum(L^2) in prefill, KV bytes or FLOPs per attended token in decode.
    5. Knots where the closed form bends, until the line is within `KNOT_TOLERANCE`.

Limits
    Tiles are smoothed: a real kernel pays up to 64 % more one token past a tile edge.
    Windows: see `models.shapes.SHORT_WINDOW_TOKENS`. The KV cache of earlier chunks is
    covered by the attention FLOPs of the new tokens.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from clusters.fields import spec
from clusters.gpu import GpuType
from clusters.links import GroupLink
from models.flops import stage_shapes
from models.latency.closed_form import StageRoofline
from models.latency.efficiency import RooflineEfficiency
from models.latency.knots import choose_knots
from models.latency.request import LatencyRequest, Provenance
from models.latency.step_table import StepTable
from models.llm import LlmSpec
from models.shapes import StageShapes

KNOT_TOLERANCE = 0.01
"""Largest relative distance of the table from the closed form on the grid."""
_TOKEN_GRID = np.unique(np.round(np.geomspace(1, 262144, 240)))
_BATCH_GRID = np.unique(np.round(np.geomspace(1, 8192, 180)))


@dataclass(frozen=True, slots=True, kw_only=True)
class RooflineSource:
    """First-principles latencies as a source; covers every LLM and GPU type."""

    efficiency: RooflineEfficiency = spec(
        "Shares of the peaks.", default=RooflineEfficiency()
    )

    @property
    def name(self) -> str:
        """Name users select it by."""
        return "roofline"

    @property
    def provenance(self) -> Provenance:
        """Kind of evidence."""
        return Provenance.DATASHEET

    @property
    def expected_error_frac(self) -> float | None:
        """90th percentile against step latencies from measured operators.

        Llama-3.1-8B and Qwen3-32B on A100, H100, H200 and B200 with two engines
        (`tests/models/test_roofline.py`); the median is a third of it.
        """
        return 0.3

    def why_not_pair(self, llm: LlmSpec, gpu: GpuType) -> str | None:
        """None: any shape can be costed on any datasheet."""
        return None

    def compile(self, request: LatencyRequest) -> tuple[StepTable, ...]:
        """One table a pipeline stage; equal stages are compiled once."""
        shapes = stage_shapes(request.llm, request.parallelism)
        hops = (*request.links.pp, None)
        return tuple(
            compile_stage(stage, request.gpu, ring, hop, self.efficiency)
            for stage, ring, hop in zip(shapes, request.links.tp, hops, strict=True)
        )


@lru_cache(maxsize=4096)
def compile_stage(
    stage: StageShapes,
    gpu: GpuType,
    ring: GroupLink,
    hop: GroupLink | None,
    efficiency: RooflineEfficiency,
) -> StepTable:
    """The step table of one stage: the closed form at the knots it needs."""
    form = StageRoofline(
        stage=stage, gpu=gpu, ring=ring, hop=hop, efficiency=efficiency
    )
    tokens, prefill_ms = choose_knots(
        _TOKEN_GRID,
        form.prefill_ms(_TOKEN_GRID),
        tolerance=KNOT_TOLERANCE,
    )
    batch, decode_ms = choose_knots(
        _BATCH_GRID,
        form.decode_ms(_BATCH_GRID),
        tolerance=KNOT_TOLERANCE,
    )
    return StepTable(
        prefill_tokens=tokens,
        prefill_ms=prefill_ms,
        prefill_per_sq_token_ms=form.prefill_per_sq_token_ms(),
        decode_batch=batch,
        decode_ms=decode_ms,
        decode_per_kv_token_ms=(form.decode_per_kv_token_ms(),) * len(batch),
    )
