"""Messages between GPUs: fixed cost plus bytes over the link."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusters.links import GroupLink, LinkKind
from models.communication import (
    CommunicationEfficiency,
    ExpertRouting,
    all_gather_ms,
    all_reduce_ms,
    all_to_all_ms,
    expert_exchange_ms,
    pipeline_hop_ms,
    ring_exposed_ms,
)

# 1 GB/s moves 1 MB in 1 ms; nothing lost to software.
LINK = GroupLink(bytes_per_s=1e9, latency_ms=0.01)
INSIDE = GroupLink(bytes_per_s=1e9, latency_ms=0.0, kind=LinkKind.NVLINK)
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


def test_an_all_reduce_is_a_reduce_scatter_and_an_all_gather() -> None:
    one = all_gather_ms(1e6, LINK, num_gpus=8, efficiency=IDEAL)
    assert one == pytest.approx(7 / 8 + 3 * 0.01)
    both = all_reduce_ms(1e6, LINK, num_gpus=8, efficiency=IDEAL)
    assert both == pytest.approx(2 * one)


def test_tokens_that_visit_most_gpus_are_gathered_on_all() -> None:
    # 8 experts of a token on 8 GPUs: 7/8 of the rows come, and their sums go back.
    routing = ExpertRouting(num_gpus=8, expert_gpus=8, experts_per_token=8)
    assert not routing.is_sparse
    ms = expert_exchange_ms(1e6, INSIDE, routing, efficiency=IDEAL)
    assert ms == pytest.approx(2 * 7 / 8)


def test_tokens_that_visit_few_gpus_are_sent_to_those() -> None:
    # One expert of a token on 4 GPUs: a GPU sends its quarter of the rows once, 3/4 of
    # them to others, and gets them back.
    routing = ExpertRouting(num_gpus=4, expert_gpus=4, experts_per_token=1)
    assert routing.gpus_visited == pytest.approx(1.0)
    ms = expert_exchange_ms(1e6, INSIDE, routing, efficiency=IDEAL)
    assert ms == pytest.approx(2 * 0.25 * 3 / 4)
    # Two GPUs a host share its NIC when each sends for itself.
    hosts = replace(INSIDE, kind=LinkKind.NETWORK, sharers=2)
    shared = expert_exchange_ms(1e6, hosts, routing, efficiency=IDEAL)
    assert shared == pytest.approx(2 * ms)


def test_experts_split_by_width_need_every_row_everywhere() -> None:
    assert not ExpertRouting(num_gpus=32, expert_gpus=16, experts_per_token=8).is_sparse
    assert ExpertRouting(num_gpus=32, expert_gpus=32, experts_per_token=8).is_sparse


@given(st.integers(1, 8), st.integers(9, 512))
def test_a_token_visits_no_more_gpus_than_it_has_experts(
    experts: int, gpus: int
) -> None:
    routing = ExpertRouting(num_gpus=gpus, expert_gpus=gpus, experts_per_token=experts)
    assert 1.0 - 1e-9 <= routing.gpus_visited <= experts + 1e-9
    sparse = expert_exchange_ms(1e6, INSIDE, routing, efficiency=IDEAL)
    whole = 2 * all_gather_ms(1e6, INSIDE, num_gpus=gpus, efficiency=IDEAL)
    assert sparse < whole


def test_a_ring_hides_exactly_when_a_block_takes_as_long_as_its_transfer() -> None:
    # 4 ranks, 3 turns: transfers of 2 ms behind blocks of 0 to 4 ms.
    blocks = np.array([0.0, 1.0, 1.999, 2.0, 4.0])
    exposed = ring_exposed_ms(blocks, 2.0 + 0.0 * blocks, num_ranks=4)
    np.testing.assert_allclose(exposed, [6.0, 3.0, 0.003, 0.0, 0.0])
    assert (exposed > 0).tolist() == [True, True, True, False, False]


def test_one_gpu_has_nobody_to_talk_to() -> None:
    assert all_reduce_ms(1e6, LINK, num_gpus=1, efficiency=IDEAL) == 0
    assert all_gather_ms(1e6, LINK, num_gpus=1, efficiency=IDEAL) == 0
    assert all_to_all_ms(1e6, LINK, num_gpus=1, efficiency=IDEAL) == 0


def test_a_hop_sends_the_buffer_once() -> None:
    assert pipeline_hop_ms(1e6, LINK, efficiency=IDEAL) == pytest.approx(1.01)


def test_arrays_give_one_time_an_entry() -> None:
    ms = all_reduce_ms(np.array([0.0, 1e6]), LINK, num_gpus=2, efficiency=IDEAL)
    np.testing.assert_allclose(ms, [0.02, 1.02])


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
