"""Units of one phase: what they serve, and models that are served apart or not."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from clusters.fields import InputError
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
    found = {(column.phase, column.served) for column in apart.columns}
    # With two LLMs, a unit is one load of either, or one of each.
    for loads in model.loads(ONE) + apart.loads(ONE):
        first, second = (np.flatnonzero(loads.llm == i) for i in (0, 1))
        for rows in [[i] for i in range(len(loads))] + list(product(first, second)):
            chosen = list(rows)
            longest = loads.prefill_ms[chosen].max()
            if (loads.takes[chosen].sum(axis=0) > loads.capacity + 1e-9).any():
                continue
            if (loads.longest_ms[chosen] >= longest).all():
                served = loads.served_rps[chosen].tolist()
                llms = loads.llm[chosen].tolist()
                found.add((loads.point.phase, tuple(zip(llms, served, strict=True))))
    units = [unit for unit in found if not any(is_less(unit, o) for o in found)]
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


def is_less(unit, other) -> bool:
    """Whether a unit serves nobody more than another of its phase, and someone less."""
    own, more = dict(unit[1]), dict(other[1])
    is_within = all(load <= more.get(llm, 0.0) for llm, load in own.items())
    return unit[0] is other[0] and own != more and is_within


def both_tight(*rates: float, nodes: int) -> SharedProblem:
    """LLMs that need their phases apart, and engines that cannot share SMs."""
    return tiny_shared(
        *rates,
        cluster=tiny_cluster(nodes, 1),
        search=replace(IN_TURNS, cycles=(0.5, 1.0)),
        slo=Slo(ttft_ms=60.0, tpot_ms=30.0),
    )


@pytest.mark.parametrize(
    "problem",
    [
        one_tight(20.0, 2.0, nodes=3),
        one_tight(30.0, 12.0, nodes=3),
        both_tight(10.0, 6.0, nodes=2),
        both_tight(10.0, 4.0, nodes=4),
    ],
    ids=["20 tight, 2", "30 tight, 12", "10 and 6 tight", "10 and 4 tight"],
)
def test_small_problems_equal_trial_of_everything(problem: SharedProblem) -> None:
    nodes = len(problem.cluster.nodes)
    found = place_services(problem, TINY_LIBRARY, settings=Settings())
    assert found.status is Status.OPTIMAL
    best = best_by_trial(problem, num_gpus=nodes)
    assert found.served_rps == pytest.approx(best, rel=2e-4)
    assert found.bound >= found.value - 1e-9
    check_units(problem, book_of(problem), found.placed)


def test_llms_share_a_prefill_only_and_a_decode_only_unit() -> None:
    problem = both_tight(10.0, 6.0, nodes=2)
    plan = plan_services(problem, TINY_LIBRARY, method="exact")
    assert plan.status.is_success
    assert plan.evaluation.is_met
    assert plan.evaluation.within_slo_rps == pytest.approx(8.0, rel=0.02)
    by_phase = {each.unit.phase: each.unit for each in plan.placed.units}
    assert set(by_phase) == {Phase.PREFILL, Phase.DECODE}
    for unit in by_phase.values():
        assert [member.service for member in unit.members] == ["a", "b"]
    # Of one LLM each, two units of each phase would need four GPUs.
    alone = replace(problem, search=replace(problem.search, max_llms=1))
    assert place_services(alone, TINY_LIBRARY).placed is None
    # Whole requests would wait for each other's prefills on any unit.
    whole = replace(problem, search=replace(problem.search, splits_phases=False))
    with pytest.raises(InputError, match="its SLO cannot be met"):
        place_services(whole, TINY_LIBRARY)


def test_shares_of_a_decode_only_unit_add_up() -> None:
    problem = both_tight(10.0, 6.0, nodes=2)
    space = replace(SMALL_SPACE, shares_time=False)
    problem = replace(problem, search=space)
    method = SharingMethod.DISAGGREGATED
    found = place_services(problem, TINY_LIBRARY, method=method)
    (decode,) = (u.unit for u in found.placed.units if u.unit.phase is Phase.DECODE)
    assert decode.cycle_ms is None
    shares = [member.decode_share_frac for member in decode.members]
    assert set(shares) <= {0.3, 0.4}
    assert decode.sm_shares_frac == tuple(shares)


def test_links_into_a_shared_decode_unit_carry_the_caches_of_all() -> None:
    problem = both_tight(20.0, 10.0, nodes=2)
    units = phase_units(problem, kv_link_efficiency_frac=3.2e-5)
    (decodes, *_) = (x for x in units.loads(ONE) if x.point.phase is Phase.DECODE)
    # 50 ms of the links for each prompt of 100 tokens.
    link = decodes.takes[:, 2] / decodes.served_rps
    assert link == pytest.approx(np.full(len(decodes), 0.05), rel=1e-6)


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
