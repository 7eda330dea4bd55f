"""The units of a problem: the best and the list of them agree."""

import pytest

from planner.multiplexing.columns import Prices
from planner.multiplexing.space import UnitSpace
from tests.planner.multiplexing.tiny_shared import SMALL_SPACE, model_of, tiny_shared


def even_prices(model, load: float = 1.0, gpu: float = 0.5) -> Prices:
    num = len(model.book.demands)
    meshes = {mesh: gpu * mesh.num_gpus for mesh in model.supply.kinds}
    return Prices(load=(load,) * num, presence=(0.0,) * num, mesh=meshes)


def test_the_best_is_the_best_of_all_that_are_listed() -> None:
    model = model_of(tiny_shared(6.0, 3.0, 1.0))
    prices = even_prices(model)
    offer, listed = model.best(prices), model.above(prices, 0.0, limit=10_000)
    for mesh, most in offer.most_profit.items():
        known = [prices.profit(c) for c in listed if c.mesh == mesh]
        assert most == pytest.approx(max(known))
    assert set(offer.columns) <= set(listed)
    assert all(prices.profit(column) >= -1e-9 for column in listed)


def test_a_unit_serves_what_its_column_says() -> None:
    model = model_of(tiny_shared(6.0, 3.0))
    for column in model.best(even_prices(model)).columns:
        unit = model.unit(column)
        served = {m.service: m.served_rps for m in unit.members}
        names = [demand.name for demand in model.book.demands]
        assert served == {names[llm]: load for llm, load in column.served}
        assert unit.mesh == column.mesh


def test_a_list_that_is_too_long_is_none() -> None:
    model = model_of(tiny_shared(6.0, 3.0, 1.0))
    assert model.above(even_prices(model), -100.0, limit=5) is None


def test_dedicated_units_hold_one_llm() -> None:
    space = UnitSpace(sm_shares=(0.3, 0.4), prefills=((0.5, 1),), max_llms=1)
    model = model_of(tiny_shared(6.0, 3.0), space)
    listed = model.above(even_prices(model), -1.0, limit=10_000)
    assert {len(column.members) for column in listed} == {1}


def test_loads_are_parts_of_the_rate_or_of_what_fits() -> None:
    model = model_of(tiny_shared(60.0))
    (mesh,) = (m for m in model.supply.kinds if m.num_gpus == 1)
    most = model.most_rps(0, mesh)
    assert 0 < most < 60.0
    served = {
        round(r / most, 3) for loads in model.loads(mesh) for r in loads.served_rps
    }
    replicas = -(-60.0 // most)
    assert served <= {1.0, 0.5, round(60.0 / replicas / most, 3)}
    assert SMALL_SPACE.parts == (1.0, 0.5)
