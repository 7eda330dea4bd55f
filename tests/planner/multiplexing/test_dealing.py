"""Requests are dealt as planned, in any stretch of the traffic."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from planner.multiplexing.dealing import TURNED_AWAY, deal, only
from planner.workload.workload import Workload


@given(
    st.lists(st.floats(0.0, 10.0), min_size=1, max_size=5).filter(lambda p: sum(p) > 0),
    st.floats(0.0, 20.0),
)
def test_any_stretch_of_requests_is_dealt_as_promised(promised, more) -> None:
    rate = sum(promised) + more
    target = deal(500, promised, rate)
    for unit, rps in enumerate(promised):
        got = np.cumsum(target == unit)
        due = rps / rate * np.arange(1, 501)
        assert np.abs(got - due).max() <= len(promised) + 1
    assert (target == TURNED_AWAY).sum() <= more / rate * 500 + len(promised) + 1


def test_one_unit_with_all_of_it_gets_all() -> None:
    assert deal(3, (0.0, 2.0), 2.0).tolist() == [1, 1, 1]
    assert deal(2, (0.0,), 2.0).tolist() == [TURNED_AWAY] * 2


def test_some_of_the_requests_keep_their_order() -> None:
    drawn = Workload.poisson(rate_rps=1.0, lengths="10x2").draw(9, seed=0)
    some = only(drawn, np.array([1, 4]))
    assert some.arrival_ms.tolist() == drawn.arrival_ms[[1, 4]].tolist()
