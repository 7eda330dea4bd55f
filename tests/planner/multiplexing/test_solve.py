"""Placing services: against trial of everything, the baselines, and mistakes."""

from dataclasses import replace
from itertools import combinations_with_replacement, product

import numpy as np
import pytest

from clusters.fields import InputError
from models.latency.contention import SmSharing
from planner.multiplexing import solve
from planner.multiplexing.exact import Settings
from planner.multiplexing.placed import check_units
from planner.multiplexing.problem import SharedGoal, SharedObjective
from planner.multiplexing.solve import SharingMethod, place_services
from planner.multiplexing.space import UnitSpace
from planner.plan import Status
from planner.slo import Slo
from tests.planner.multiplexing.tiny_shared import SMALL_SPACE, model_of, tiny_shared
from tests.planner.tiny_problems import TINY_LIBRARY, mixed_cluster, tiny_cluster

BUSY = Slo(ttft_ms=2000.0, tpot_ms=24.0)
"""Steps of at most 24 ms: batches of 28 on one GPU."""


def place(problem, **options):
    return place_services(problem, TINY_LIBRARY, space=SMALL_SPACE, **options)


@pytest.fixture
def heavy_gpu_part(monkeypatch):
    """All of the tiny latencies is GPU work, so that shares of the SMs matter."""
    slow = SmSharing(
        memory_frac=1e-9, arithmetic_frac=1e-9, memory_scale=0.3, arithmetic_scale=1.3
    )
    monkeypatch.setattr(SmSharing, "published", classmethod(lambda cls: slow))


def every_unit(model):
    """All sets of loads that fit a mesh, by trying every combination."""
    found = {}
    for mesh in model.supply.kinds:
        for loads in model.loads(mesh):
            llms = sorted(set(loads.llm.tolist()))
            own = [[*np.flatnonzero(loads.llm == i).tolist(), None] for i in llms]
            for choice in product(*own):
                rows = [row for row in choice if row is not None]
                if not rows:
                    continue
                taken = loads.takes[rows].sum(axis=0)
                longest = loads.prefill_ms[rows].max()
                if (taken > loads.capacity + 1e-9).any():
                    continue
                if (loads.longest_ms[rows] < longest).any():
                    continue
                served = dict(
                    zip(loads.llm[rows].tolist(), loads.served_rps[rows], strict=True)
                )
                found[(mesh, tuple(sorted(served.items())))] = None
    return list(found)


def best_by_trial(model, num_gpus: int) -> float:
    """Most load that any set of units serves, all LLMs placed."""
    rates = [demand.rate_rps for demand in model.book.demands]
    units, best = every_unit(model), 0.0
    for size in range(1, num_gpus + 1):
        for chosen in combinations_with_replacement(units, size):
            if sum(mesh.num_gpus for mesh, _ in chosen) > num_gpus:
                continue
            served = np.zeros(len(rates))
            for _, loads in chosen:
                for llm, load in loads:
                    served[llm] += load
            if served.min() > 0:
                best = max(best, np.minimum(served, rates).sum())
    return best


@pytest.mark.usefixtures("heavy_gpu_part")
@pytest.mark.parametrize(
    "rates", [(30.0, 4.0), (12.0, 12.0), (40.0, 2.0, 2.0)], ids=str
)
def test_small_problems_equal_trial_of_everything(rates: tuple[float, ...]) -> None:
    problem = tiny_shared(*rates, slo=BUSY)
    plan = place(problem, settings=Settings())
    best = best_by_trial(model_of(problem), num_gpus=2)
    assert plan.status is Status.OPTIMAL
    # Of equal ones the smaller is taken, for at most a ten-thousandth of the load.
    assert plan.served_rps == pytest.approx(best, rel=2 * solve.TIE_FRAC)
    assert plan.bound >= plan.value - 1e-9


@pytest.mark.usefixtures("heavy_gpu_part")
@pytest.mark.parametrize("goal", list(SharedGoal))
def test_the_exact_search_is_never_worse_than_the_others(goal: SharedGoal) -> None:
    problem = tiny_shared(
        8.0, 5.0, 1.0, slo=BUSY, gpus=4, objective=SharedObjective(goal=goal)
    )
    values = {m: place(problem, method=m).value for m in SharingMethod}
    exact = values.pop(SharingMethod.EXACT)
    assert exact is not None
    assert all(v <= exact + 1e-9 for v in values.values() if v is not None)
    assert any(v is not None for v in values.values())


def test_the_least_cost_is_one_gpu_where_all_fit_it() -> None:
    problem = tiny_shared(
        2.0, 1.0, gpus=4, objective=SharedObjective(goal=SharedGoal.MIN_COST)
    )
    plan = place(problem)
    assert plan.placed.num_gpus == 1
    assert plan.usd_per_hour == pytest.approx(2.5)
    assert -plan.value == pytest.approx(2.5)
    assert plan.served_rps == pytest.approx(3.0)


def test_dedicated_gpus_hold_one_llm_each() -> None:
    plan = place(tiny_shared(2.0, 1.0), method=SharingMethod.SPATIAL)
    assert [len(each.unit.members) for each in plan.placed.units] == [1, 1]


def test_in_turns_no_llm_has_a_share_of_its_own() -> None:
    plan = place(tiny_shared(2.0, 1.0), method=SharingMethod.TEMPORAL)
    assert all(each.unit.cycle_ms for each in plan.placed.units)


def test_gpu_types_may_differ_from_unit_to_unit() -> None:
    plan = place(tiny_shared(30.0, 30.0, 30.0, slo=BUSY, cluster=mixed_cluster()))
    assert {each.unit.mesh.gpu_type for each in plan.placed.units} == {"tiny", "other"}


def test_every_placement_passes_the_check_and_fills_its_memory() -> None:
    problem = tiny_shared(9.0, 3.0, slo=BUSY, gpus=4)
    for method in SharingMethod:
        plan = place(problem, method=method)
        assert plan.placed is not None, method
        check_units(problem, model_of(problem).book, plan.placed)
        for each in plan.placed.units:
            quotas = [m.kv_quota_tokens for m in each.unit.members]
            block = problem.engine.memory.block_tokens
            assert all(quota % block == 0 for quota in quotas)


def test_the_report_names_gpus_units_and_the_load() -> None:
    text = str(place(tiny_shared(2.0, 1.0)))
    assert "OPTIMAL" in text
    assert "GPUs 0: 1 x tiny: a 2/s" in text
    assert "serves 3 of 3 requests/s (100.0%) on 1 GPUs" in text


def test_an_llm_that_fits_nowhere_is_named_with_the_reason() -> None:
    problem = tiny_shared(1.0, 1.0)
    small = tiny_cluster(
        1, 2, gpu=replace(problem.cluster.gpu_types()[0], memory_bytes=10)
    )
    with pytest.raises(InputError, match=r"services\[0\] = 'a'.*before any KV cache"):
        place(replace(problem, cluster=small))


def test_an_slo_that_no_unit_meets_is_named() -> None:
    with pytest.raises(InputError, match=r"services\[0\] = 'a'.*SLO cannot be met"):
        place(tiny_shared(1.0, slo=Slo(ttft_ms=5.0, tpot_ms=100.0)))


def test_more_llms_than_there_is_room_for_are_told() -> None:
    problem = tiny_shared(*[30.0] * 3, slo=BUSY, gpus=1)
    dedicated = place(problem, method=SharingMethod.SPATIAL)
    assert dedicated.status is Status.INFEASIBLE
    assert dedicated.placed is None
    assert "no room for" in str(dedicated)


def test_shares_that_cannot_add_up_are_refused() -> None:
    with pytest.raises(InputError, match="sm_shares"):
        UnitSpace(sm_shares=(0.6, 0.8))
    with pytest.raises(InputError, match=r"sm_shares\[0\]"):
        UnitSpace(sm_shares=(0.0, 0.8))


def test_the_goal_min_cost_needs_prices() -> None:
    cluster = tiny_cluster(1, 2, usd_per_hour=None)
    problem = tiny_shared(
        1.0, cluster=cluster, objective=SharedObjective(goal=SharedGoal.MIN_COST)
    )
    with pytest.raises(InputError, match="usd_per_hour"):
        place(problem)
