"""Messages between GPUs: fixed cost plus bytes over the link."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusters.links import GroupLink
from models.communication import (
    CommunicationEfficiency,
    all_reduce_ms,
    all_to_all_ms,
    kv_transfer_ms,
    pipeline_hop_ms,
)

# 1 GB/s moves 1 MB in 1 ms; nothing lost to software.
LINK = GroupLink(bytes_per_s=1e9, latency_ms=0.01)
IDEAL = CommunicationEfficiency(
    collective_frac=1.0, point_to_point_frac=1.0, floor_ms=0.0
)


def test_ring_all_reduce_moves_twice_the_buffer_less_one_share() -> None:
    # 2 * 3/4 of 1 MB at 1 GB/s, and 2 * log2(4) = 4 steps of latency.
    ms = all_reduce_ms(1e6, LINK, num_gpus=4, efficiency=IDEAL)
    assert ms == pytest.approx(1.5 + 0.04)


def test_all_to_all_keeps_one_share_at_home() -> None:
    assert all_to_all_ms(1e6, LINK, num_gpus=4, efficiency=IDEAL) == pytest.approx(
        0.75 + 0.01
    )


def test_one_gpu_has_nobody_to_talk_to() -> None:
    assert all_reduce_ms(1e6, LINK, num_gpus=1, efficiency=IDEAL) == 0
    assert all_to_all_ms(1e6, LINK, num_gpus=1, efficiency=IDEAL) == 0


def test_a_hop_sends_the_buffer_once() -> None:
    assert pipeline_hop_ms(1e6, LINK, efficiency=IDEAL) == pytest.approx(1.01)


def test_arrays_give_one_time_an_entry() -> None:
    ms = all_reduce_ms(np.array([0.0, 1e6]), LINK, num_gpus=2, efficiency=IDEAL)
    np.testing.assert_allclose(ms, [0.02, 1.02])


def test_opt_13b_prompt_takes_198_ms_at_25_gbit() -> None:
    # 755 tokens of OPT-13B KV (819,200 bytes each) are 0.62 GB.
    ms = kv_transfer_ms(755 * 819_200, bytes_per_s=25e9 / 8)
    assert ms == pytest.approx(198, rel=0.005)


def test_defaults_sit_within_the_profiled_bus_bandwidths() -> None:
    # Vidur's profiles at 64 MB: 156-174 GB/s on DGX-A100, 274-339 on DGX-H100.
    share = CommunicationEfficiency().collective_frac
    assert share * 300 * 0.85 >= 156
    assert share * 300 <= 174 * 1.15
    assert 274 <= share * 450 <= 339


@given(
    num_bytes=st.floats(0, 1e10),
    more=st.floats(0, 1e10),
    num_gpus=st.integers(2, 64),
)
def test_more_bytes_never_take_less_time(
    num_bytes: float, more: float, num_gpus: int
) -> None:
    efficiency = CommunicationEfficiency()
    for collective in (all_reduce_ms, all_to_all_ms):
        less = collective(num_bytes, LINK, num_gpus=num_gpus, efficiency=efficiency)
        total = collective(
            num_bytes + more, LINK, num_gpus=num_gpus, efficiency=efficiency
        )
        assert 0 < less <= total
