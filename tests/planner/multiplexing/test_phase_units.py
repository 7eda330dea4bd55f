"""Units of one phase: what they serve, and models that are served apart or not."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from models.memory import kv_bytes
from planner.kv_paths import KvPaths
from planner.multiplexing.exact import Settings
from planner.multiplexing.meshes import MeshKind, MeshSupply
from planner.multiplexing.phase_units import PhaseUnits, balanced
from planner.multiplexing.placed import check_units
from planner.multiplexing.problem import SharedProblem
from planner.multiplexing.shared_plan import plan_services
from planner.multiplexing.solve import SharingMethod, place_services
from planner.multiplexing.unit import LlmUnit, UnitMember
from planner.plan import Status
from planner.simulator.system import Phase
from planner.slo import Slo
from tests.planner.multiplexing.tiny_shared import (
    SMALL_SPACE,
    book_of,
    model_of,
    tiny_shared,
)
from tests.planner.tiny_problems import TINY_LIBRARY, tiny_cluster

IN_TURNS = replace(SMALL_SPACE, shares_space=False)
"""Without SM shares, a long prefill holds every decode of its GPU."""
TIGHT = Slo(ttft_ms=60.0, tpot_ms=20.0)
ONE = MeshKind(gpu_type="tiny", num_gpus=1)


def one_tight(*rates: float, nodes: int = 4) -> SharedProblem:
    """LLMs on nodes of one GPU, of which the first has tight limits."""
    problem = tiny_shared(*rates, cluster=tiny_cluster(nodes, 1), search=IN_TURNS)
    first = replace(problem.services[0], slo=TIGHT)
    return replace(problem, services=(first, *problem.services[1:]))


def phase_units(problem: SharedProblem, **engine) -> PhaseUnits:
    supply = MeshSupply.of(problem.cluster)
    settings = replace(problem.engine, **engine) if engine else problem.engine
    return PhaseUnits(book_of(problem), supply, problem.search, settings)


def test_one_llm_is_disaggregated_and_the_others_share() -> None:
    problem = one_tight(20.0, 2.0, 2.0)
    plan = plan_services(problem, TINY_LIBRARY, method="exact")
    assert plan.status.is_success
    assert plan.verdict == "share GPUs; phases apart for a"
    # As found with the estimate, and as confirmed by the simulation.
    by_phase = {each.unit.phase: each.unit for each in plan.placed.units}
    assert by_phase[Phase.AGGREGATED].is_shared
    assert [m.service for m in by_phase[Phase.AGGREGATED].members] == ["b", "c"]
    assert plan.evaluation.within_slo_rps == pytest.approx(24.0, rel=0.01)
    # Neither sharing nor dedicated GPUs serve as much on three GPUs.
    others = {
        method: place_services(problem, TINY_LIBRARY, method=method)
        for method in (SharingMethod.SPATIAL, SharingMethod.TEMPORAL)
    }
    assert all(
        other.placed is None or other.placed.num_gpus > plan.placed.num_gpus
        for other in others.values()
    )


def best_by_trial(problem: SharedProblem, num_gpus: int) -> float:
    """Most load of any set of whole and one-phase units on GPUs of one each."""
    model, apart = model_of(problem, problem.search), phase_units(problem)
    rates = [demand.rate_rps for demand in problem.demands]
    whole = {
        tuple(sorted(zip(loads.llm[[i]].tolist(), loads.served_rps[[i]], strict=True)))
        for loads in model.loads(ONE)
        for i in range(len(loads))
        if loads.takes[i].max() <= 1.0
    }
    # With two LLMs and turns, a unit is one load of either, or one of each.
    for loads in model.loads(ONE):
        first, second = (np.flatnonzero(loads.llm == i) for i in (0, 1))
        for i, j in product(first, second):
            rows = [i, j]
            longest = loads.prefill_ms[rows].max()
            if (loads.takes[rows].sum(axis=0) > loads.capacity + 1e-9).any():
                continue
            if (loads.longest_ms[rows] >= longest).all():
                served = loads.served_rps[rows]
                whole.add(((0, float(served[0])), (1, float(served[1]))))
    units = [(Phase.AGGREGATED, unit) for unit in sorted(whole)]
    units += [(column.phase, column.served) for column in apart.columns]
    best = 0.0
    for chosen in product([None, *units], repeat=num_gpus):
        served = {phase: np.zeros(len(rates)) for phase in Phase}
        for unit in chosen:
            if unit is not None:
                for llm, load in unit[1]:
                    served[unit[0]][llm] += load
        both = np.minimum(served[Phase.PREFILL], served[Phase.DECODE])
        total = served[Phase.AGGREGATED] + both
        if total.min() > 0:
            best = max(best, np.minimum(total, rates).sum())
    return float(best)


@pytest.mark.parametrize("rates", [(20.0, 2.0), (30.0, 12.0)], ids=str)
def test_small_problems_equal_trial_of_everything(rates: tuple[float, ...]) -> None:
    problem = one_tight(*rates, nodes=3)
    found = place_services(problem, TINY_LIBRARY, settings=Settings())
    assert found.status is Status.OPTIMAL
    best = best_by_trial(problem, num_gpus=3)
    assert found.served_rps == pytest.approx(best, rel=2e-4)
    assert found.bound >= found.value - 1e-9
    check_units(problem, book_of(problem), found.placed)


def test_units_of_one_phase_of_an_llm_are_alike() -> None:
    problem = tiny_shared(200.0, slo=Slo(ttft_ms=60.0, tpot_ms=12.0), gpus=7)
    found = place_services(problem, TINY_LIBRARY, method=SharingMethod.DISAGGREGATED)
    kinds = {}
    for each in found.placed.units:
        kinds.setdefault(each.unit.phase, set()).add(each.unit.mesh)
    assert {phase: len(meshes) for phase, meshes in kinds.items()} == {
        Phase.PREFILL: 1,
        Phase.DECODE: 1,
    }


def test_a_decode_unit_receives_no_more_than_its_links_carry() -> None:
    problem = one_tight(20.0, 10.0)
    slow = 3.2e-6
    columns = phase_units(problem, kv_link_efficiency_frac=slow).columns
    decodes = [c for c in columns if c.phase is Phase.DECODE and c.members == (1,)]
    transfer = KvPaths.of(problem.cluster).transfer((0,), (3,))
    carried = slow * transfer.bytes_per_s / kv_bytes(problem.services[1].llm, 100.0)
    # Half a second for the KV cache of a prompt of 100 tokens.
    assert carried == pytest.approx(2.0)
    assert [c.served[0][1] for c in decodes] == [pytest.approx(carried)]


def test_there_are_none_where_phases_may_not_be_apart() -> None:
    problem = one_tight(20.0, 1.0)
    whole = replace(problem, search=replace(IN_TURNS, splits_phases=False))
    assert phase_units(whole).columns == ()
    assert not phase_units(whole).serves(0)
    assert phase_units(problem).serves(0)


def unit(service: str, rps: float, phase: Phase) -> LlmUnit:
    member = UnitMember(
        service=service,
        served_rps=rps,
        decode_share_frac=1.0 if phase is not Phase.AGGREGATED else 0.5,
        kv_quota_tokens=100,
        max_num_seqs=4,
        prefill_ms=1.0,
        tpot_ms=1.0,
    )
    share = 1.0 if phase is not Phase.AGGREGATED else 0.5
    return LlmUnit(mesh=ONE, members=(member,), phase=phase, prefill_share_frac=share)


def test_both_phases_promise_the_same_and_no_more_than_is_left() -> None:
    units = [
        unit("a", 4.0, Phase.AGGREGATED),
        unit("a", 6.0, Phase.PREFILL),
        unit("a", 6.0, Phase.PREFILL),
        unit("a", 9.0, Phase.DECODE),
        unit("b", 5.0, Phase.PREFILL),
    ]
    found = balanced(units, {"a": 10.0, "b": 5.0})
    # 9 of a could be served apart, 6 are left; b has nobody to decode.
    assert [(u.phase, u.members[0].served_rps) for u in found] == [
        (Phase.AGGREGATED, 4.0),
        (Phase.PREFILL, 3.0),
        (Phase.PREFILL, 3.0),
        (Phase.DECODE, 6.0),
    ]
