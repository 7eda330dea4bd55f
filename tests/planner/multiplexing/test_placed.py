"""Units on GPUs: the check names the first thing that does not hold."""

from dataclasses import replace

import pytest

from clusters.fields import InputError
from planner.multiplexing.placed import (
    PlacedUnit,
    PlacedUnits,
    check_units,
    free_bytes,
    place_units,
)
from planner.multiplexing.solve import place_services
from tests.planner.multiplexing.tiny_shared import SMALL_SPACE, book_of, tiny_shared
from tests.planner.tiny_problems import TINY_LIBRARY

PROBLEM = tiny_shared(3.0, 2.0)


@pytest.fixture(scope="module")
def placed() -> PlacedUnits:
    return place_services(PROBLEM, TINY_LIBRARY, space=SMALL_SPACE).placed


def check(placed: PlacedUnits) -> None:
    check_units(PROBLEM, book_of(PROBLEM), placed)


def changed(placed: PlacedUnits, **unit_changes) -> PlacedUnits:
    first = placed.units[0]
    unit = replace(first.unit, **unit_changes)
    return PlacedUnits(units=(replace(first, unit=unit), *placed.units[1:]))


def test_quotas_fill_the_memory_in_proportion_to_load(placed: PlacedUnits) -> None:
    (each,) = placed.units
    a, b = each.unit.members
    # The same model at 3 and 2 requests/s: what nobody needs is divided 3 to 2.
    assert a.kv_quota_tokens / b.kv_quota_tokens == pytest.approx(1.5, rel=0.01)
    assert 0 <= free_bytes(book_of(PROBLEM), each.unit) < 2 * 16 * 32


def test_a_gpu_in_two_units_is_refused(placed: PlacedUnits) -> None:
    with pytest.raises(InputError, match=r"each GPU in one unit only"):
        check(PlacedUnits(units=placed.units * 2))


def test_a_gpu_that_does_not_exist_is_refused(placed: PlacedUnits) -> None:
    far = replace(placed.units[0], gpu_indices=(7,))
    with pytest.raises(InputError, match=r"units.gpus = 7"):
        check(PlacedUnits(units=(far,)))


def test_quotas_beyond_the_memory_are_refused(placed: PlacedUnits) -> None:
    members = tuple(
        replace(m, kv_quota_tokens=2 * m.kv_quota_tokens)
        for m in placed.units[0].unit.members
    )
    with pytest.raises(InputError, match="kv_quota_tokens"):
        check(changed(placed, members=members))


def test_a_service_without_a_unit_is_refused(placed: PlacedUnits) -> None:
    alone = changed(placed, members=placed.units[0].unit.members[:1])
    with pytest.raises(InputError, match="a unit for every service"):
        check(alone)


def test_units_that_do_not_fit_the_hosts_are_refused(placed: PlacedUnits) -> None:
    with pytest.raises(InputError, match="units that fit the hosts"):
        place_units(PROBLEM, book_of(PROBLEM), [placed.units[0].unit] * 3)


def test_a_unit_has_the_gpus_of_its_mesh(placed: PlacedUnits) -> None:
    with pytest.raises(InputError, match="gpu_indices"):
        PlacedUnit(unit=placed.units[0].unit, gpu_indices=(0, 1))
