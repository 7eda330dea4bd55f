"""Max-min fair rates."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusters.contention import max_min_rates


def rates_of(paths: list[list[int]], capacity: list[float]) -> list[float]:
    return list(max_min_rates(paths, np.array(capacity)))


def test_transfers_on_one_link_share_it_equally() -> None:
    assert rates_of([[0], [0], [0]], [6.0]) == [2.0, 2.0, 2.0]


def test_what_a_slow_transfer_leaves_goes_to_the_others() -> None:
    # Link 0 (1.0) gives 0.5 each to the first two; link 1 (2.0) has 1.5 left.
    assert rates_of([[0, 1], [0], [1]], [1.0, 2.0]) == [0.5, 0.5, 1.5]


def test_a_transfer_that_crosses_nothing_has_no_limit() -> None:
    assert rates_of([[], [0]], [3.0]) == [np.inf, 3.0]
    assert rates_of([[]], []) == [np.inf]
    assert rates_of([], [1.0]) == []


@st.composite
def networks(draw: st.DrawFn) -> tuple[list[list[int]], list[float]]:
    num_edges = draw(st.integers(1, 8))
    capacity = draw(
        st.lists(st.floats(1e3, 1e12), min_size=num_edges, max_size=num_edges)
    )
    path = st.lists(st.integers(0, num_edges - 1), min_size=1, unique=True)
    return draw(st.lists(path, min_size=1, max_size=12)), capacity


@settings(deadline=None)
@given(networks())
def test_no_link_is_over_full_and_every_transfer_has_its_bottleneck(
    network: tuple[list[list[int]], list[float]],
) -> None:
    paths, capacity = network
    rates = max_min_rates(paths, np.array(capacity))
    load = np.zeros(len(capacity))
    fastest = np.zeros(len(capacity))
    for path, rate in zip(paths, rates, strict=True):
        load[path] += rate
        fastest[path] = np.maximum(fastest[path], rate)
    assert (load <= np.array(capacity) * (1 + 1e-6)).all()
    # Max-min fair: on some full link of its path nobody is faster than the transfer.
    for path, rate in zip(paths, rates, strict=True):
        assert any(
            load[edge] == pytest.approx(capacity[edge], rel=1e-6)
            and rate >= fastest[edge] * (1 - 1e-6)
            for edge in path
        )
