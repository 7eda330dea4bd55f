"""Latent attention as a block: ideal times by hand."""

import numpy as np
import pytest

from models.latency.operators.gemm import Peaks
from models.latency.operators.latent import LatentShape

# 1 GB/ms and 1 GFLOP/ms, so that times are sizes.
PEAKS = Peaks(memory_bytes_per_s=1e12, flops_per_s=1e12)


def block(**changes: float) -> LatentShape:
    """Projections that cost nothing, 10 heads of 100 wide, a latent of 50."""
    fields: dict[str, float] = {
        "num_heads": 10.0,
        "weight_bytes": 0.0,
        "row_elements": 0.0,
        "flops_s": 0.0,
        "prefill_dim": 200.0,
        "decode_dim": 90.0,
        "cached_dim": 50.0,
        "kv_bytes": 2.0,
    }
    return LatentShape(**{**fields, **changes})


def test_a_single_token_streams_the_weights_of_the_projections() -> None:
    # 3 GB at 1 GB/ms; the kernel of one token is nothing beside it.
    time = block(weight_bytes=3e9).prefill_ms(np.asarray(1.0), 1.0, PEAKS, 1e-9)
    assert float(time) == pytest.approx(3.0, rel=1e-3)


def test_prefill_adds_the_projections_of_all_prompts_to_their_attention() -> None:
    # Two prompts of 999 tokens: 1998 x 1 us of projections; attention of 999 x 1000 / 2
    # pairs, 10 heads and 200 wide, 2 FLOP each: 2 x 1.998 ms.
    shape = block(flops_s=1e-6)
    time = shape.prefill_ms(np.asarray(999.0), 2.0, PEAKS, 1e-9)
    assert float(time) == pytest.approx(1.998 + 3.996, rel=1e-3)


def test_decode_reads_one_latent_for_all_heads() -> None:
    # 10 requests x 5000 tokens x 50 x 2 B = 5 MB = 5 us; FLOPs of one head, 2 x 90 a
    # token, take 9 us, so bytes and FLOPs of half a head weigh (4.5, 5) in the 4-norm.
    shape = block(num_heads=0.5)
    time = shape.decode_ms(np.asarray(10.0), np.asarray(5000.0), PEAKS, 1e-12)
    assert float(time) == pytest.approx((0.0045**4 + 0.005**4) ** 0.25, rel=1e-6)


def test_the_shortest_block_bounds_from_below() -> None:
    time = block().decode_ms(np.asarray(1.0), np.asarray(1.0), PEAKS, 0.05)
    assert float(time) == pytest.approx(0.05, rel=1e-3)
