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
from models.flops import stage_shapes
from models.latency.closed_form import StageRoofline
from models.latency.efficiency import RooflineEfficiency
from models.latency.knots import choose_knots
from models.latency.rank_operators import RooflineRank
from models.latency.ranked import RankedStage
from models.latency.request import LatencyRequest, Provenance, StageLinks
from models.latency.step_table import StepTable
from models.llm import LlmSpec
from models.shapes import StageShapes

KNOT_TOLERANCE = 0.01
"""Largest relative distance of the table from the closed form on the grid."""
EXPECTED_ERROR_FRAC = 0.46
"""90th percentile of the error against steps composed of measured operators.

It is 46 % on 9,779 steps of Llama-3.1-8B and Qwen3-32B on five systems with two
engines, and 45 % on steps of mixture-of-experts models on ten systems with three; the
medians are 16 and 19 % (`benchmarks/accuracy/step_latency.py --source roofline`)."""
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
        """`EXPECTED_ERROR_FRAC`, whatever the GPU."""
        return EXPECTED_ERROR_FRAC

    def why_not_pair(self, llm: LlmSpec, gpu: GpuType) -> str | None:
        """None: any shape can be costed on any datasheet."""
        return None

    def compile(self, request: LatencyRequest) -> tuple[StepTable, ...]:
        """One table a pipeline stage; equal stages are compiled once."""
        shapes = stage_shapes(request.llm, request.parallelism)
        prompt_tokens = request.prompt_tokens
        return tuple(
            compile_stage(stage, request.gpu, links, self.efficiency, prompt_tokens)
            for stage, links in zip(shapes, request.stage_links, strict=True)
        )


@lru_cache(maxsize=4096)
def compile_stage(
    stage: StageShapes,
    gpu: GpuType,
    links: StageLinks,
    efficiency: RooflineEfficiency,
    prompt_tokens: float | None = None,
) -> StepTable:
    """The step table of one stage: the closed form at the knots it needs."""
    form = StageRoofline(
        stage=stage, gpu=gpu, ring=links.tensor, hop=links.hop, efficiency=efficiency
    )
    if stage.ranks.count > 1:
        return RankedStage(
            operators=RooflineRank(form=form), links=links, prompt_tokens=prompt_tokens
        ).compile()
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
