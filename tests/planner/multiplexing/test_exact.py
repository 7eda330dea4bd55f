"""Exact units: the optimum of small instances, its bound, and what has no place."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.multiplexing.columns import NOISE, Column, Goals, Prices, UnitPool
from planner.multiplexing.exact import Settings, choose_units
from planner.multiplexing.meshes import MeshKind, MeshSupply
from planner.plan import Status

ONE, TWO = (MeshKind(gpu_type="a", num_gpus=n) for n in (1, 2))
TWO_GPUS = MeshSupply.even("a", num_nodes=1, gpus_per_node=2)


def unit(mesh: MeshKind, **served: float) -> Column:
    """`unit(ONE, a=2.0)`: LLM a (index 0) with a load of 2."""
    loads = tuple((ord(name) - ord("a"), load) for name, load in served.items())
    return Column(mesh=mesh, served=loads)


def solve(columns, *, wanted, supply=TWO_GPUS, limits=None, start=(), **goals):
    worth = goals.pop("worth", (1.0,) * len(wanted))
    return choose_units(
        Goals(worth=worth, wanted=wanted, **goals),
        supply,
        UnitPool(columns, num_llms=len(wanted)),
        start=start,
        settings=limits,
    )


def test_sharing_one_gpu_frees_the_other_for_a_replica() -> None:
    columns = [
        unit(ONE, a=4.0),
        unit(ONE, b=4.0),
        unit(ONE, a=2.0, b=1.0),
        unit(TWO, a=6.0, b=0.5),
    ]
    found = solve(columns, wanted=(8.0, 1.0))
    # a and b alone: 4 + 1. Shared and a: 4 + 2 + 1. Both on two GPUs: 6.5.
    assert found.status is Status.OPTIMAL
    assert found.value == pytest.approx(7.0)
    assert set(found.units) == {columns[0], columns[2]}


def test_more_than_is_wanted_is_worth_nothing() -> None:
    columns = [unit(ONE, a=10.0), unit(ONE, b=1.0), unit(ONE, a=2.0, b=2.0)]
    found = solve(columns, wanted=(3.0, 2.0))
    # 10 counts as 3: with the shared unit 3 + 2, with b alone 3 + 1.
    assert found.value == pytest.approx(5.0)


def test_without_replicas_an_llm_is_in_one_unit() -> None:
    columns = [unit(ONE, a=4.0), unit(ONE, a=2.0, b=1.0), unit(ONE, b=0.5)]
    found = solve(columns, wanted=(9.0, 9.0), has_replicas=False)
    # a twice would be 7; alone 4.5, and shared on one GPU 3.
    assert found.value == pytest.approx(4.5)


def test_the_price_of_gpus_counts() -> None:
    columns = [unit(ONE, a=1.0), unit(TWO, a=1.5)]
    prices = ((ONE, 1.0), (TWO, 2.0))
    found = solve(columns, wanted=(1.5,), worth=(3.0,), mesh_price=prices)
    # 3 - 1 on one GPU; two of them or the pair: 4.5 - 2.
    assert found.value == pytest.approx(2.5)


def test_least_cost_serves_everything() -> None:
    columns = [unit(ONE, a=1.0, b=1.0), unit(ONE, a=2.0), unit(TWO, a=2.0, b=2.0)]
    prices = ((ONE, 1.0), (TWO, 3.0))
    found = solve(
        columns,
        wanted=(2.0, 1.0),
        worth=(0.0, 0.0),
        must_serve_all=True,
        mesh_price=prices,
    )
    assert found.value == pytest.approx(-2.0)


def test_an_llm_without_a_place_is_told() -> None:
    found = solve([unit(TWO, a=1.0), unit(TWO, b=1.0)], wanted=(1.0, 1.0))
    assert found.status is Status.INFEASIBLE
    assert len(found.homeless) == 1
    assert found.value is None
    assert found.bound is None


def triangle() -> list[Column]:
    """Any two of three LLMs share a GPU well; alone they serve little."""
    pairs = [unit(ONE, a=4.0, b=4.0), unit(ONE, b=4.0, c=4.0), unit(ONE, a=4.0, c=4.0)]
    return [*pairs, unit(ONE, a=1.0), unit(ONE, b=1.0), unit(ONE, c=1.0)]


def test_the_relaxation_is_not_enough_and_the_listing_closes_the_gap() -> None:
    found = solve(triangle(), wanted=(9.0,) * 3, has_replicas=False)
    # Half of each pair would serve 12 on 1.5 GPUs; one pair and one alone serve 9.
    assert (found.status, found.value) == (Status.OPTIMAL, pytest.approx(9.0))
    assert found.gap_frac == pytest.approx(0.0)


def test_a_listing_that_is_cut_short_leaves_a_gap_and_a_true_bound() -> None:
    pair, *_, alone = columns = triangle()
    found = solve(
        columns,
        wanted=(9.0,) * 3,
        has_replicas=False,
        start=(pair, alone),
        limits=Settings(max_listed=0),
    )
    assert (found.status, found.value) == (Status.FEASIBLE, pytest.approx(9.0))
    assert found.bound == pytest.approx(12.0)
    assert found.gap_frac == pytest.approx(0.25)


def best_by_trial(columns, wanted, num_gpus: int) -> float | None:
    """The best multiset of units, by trying every number of each."""
    best = None
    for counts in product(range(num_gpus + 1), repeat=len(columns)):
        chosen = list(zip(columns, counts, strict=True))
        if sum(c.mesh.num_gpus * n for c, n in chosen) > num_gpus:
            continue
        served = [0.0] * len(wanted)
        for column, count in chosen:
            for llm, load in column.served:
                served[llm] += load * count
        if min(served) <= 0:
            continue
        value = sum(min(s, w) for s, w in zip(served, wanted, strict=True))
        best = value if best is None else max(best, value)
    return best


@st.composite
def pools(draw):
    loads = st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0])
    columns = []
    for _ in range(draw(st.integers(2, 6))):
        members = draw(st.sets(st.integers(0, 2), min_size=1, max_size=2))
        served = tuple((llm, draw(loads)) for llm in sorted(members))
        columns.append(Column(mesh=draw(st.sampled_from([ONE, TWO])), served=served))
    return columns, tuple(draw(st.lists(loads, min_size=3, max_size=3)))


@settings(max_examples=30, deadline=None)
@given(pools())
def test_small_cases_equal_trial_of_everything(instance) -> None:
    columns, wanted = instance
    supply = MeshSupply.even("a", num_nodes=1, gpus_per_node=4)
    best = best_by_trial(columns, wanted, num_gpus=4)
    found = solve(columns, wanted=wanted, supply=supply)
    if best is None:
        assert found.status is Status.INFEASIBLE
        return
    assert found.status is Status.OPTIMAL
    assert found.value == pytest.approx(best)
    assert found.bound >= found.value - 1e-6


def test_the_best_of_each_kind_is_offered_with_its_profit() -> None:
    columns = [unit(ONE, a=1.0), unit(ONE, a=2.0), unit(TWO, a=5.0)]
    prices = Prices(load=(1.0,), presence=(0.5,), mesh={ONE: 1.0, TWO: 9.0})
    pool = UnitPool(columns, num_llms=1)
    offer = pool.best(prices)
    # 2 + 0.5 - 1; the pair of GPUs costs more than it earns.
    assert offer.columns == (columns[1],)
    assert offer.most_profit == {ONE: pytest.approx(1.5), TWO: 0.0}
    assert prices.profit(columns[2]) == pytest.approx(-3.5)
    assert pool.above(prices, 0.5 - NOISE, limit=2) == columns[:2]
    assert pool.above(prices, -9.0, limit=2) is None
