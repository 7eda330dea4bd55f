"""Plans for several services: simulated, compared, written and read again."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from clusters.fields import InputError
from planner.multiplexing import shared_plan
from planner.multiplexing.placed import PlacedUnits
from planner.multiplexing.problem import SharedGoal, SharedObjective
from planner.multiplexing.serve import SharedEvaluation, serve
from planner.multiplexing.shared_files import (
    check_shared_plan,
    read_shared_plan,
    write_shared_plan,
)
from planner.multiplexing.shared_plan import (
    Served,
    SharedPlan,
    falls_short,
    hold,
    plan_services,
    search_and_confirm,
    worth_rps,
)
from planner.multiplexing.solve import SharedResult, SharingMethod, place_services
from planner.plan import Status
from planner.slo import Slo
from tests.planner.multiplexing.tiny_shared import SMALL_SPACE, book_of, tiny_shared
from tests.planner.tiny_problems import TINY_LIBRARY, tiny_cluster

SLO = Slo(ttft_ms=200.0, tpot_ms=20.0)


def plan_of(
    *rates: float, method: str = "auto", **changes
) -> SharedPlan | SharedResult:
    given = {"slo": SLO, "search": SMALL_SPACE, **changes}
    return plan_services(tiny_shared(*rates, **given), TINY_LIBRARY, method=method)


def test_auto_is_never_worse_than_a_single_method() -> None:
    best = plan_of(6.0, 1.0, 0.5)
    assert isinstance(best, SharedPlan)
    for method in ("exact", "spatial", "temporal", "muxserve"):
        single = plan_of(6.0, 1.0, 0.5, method=method)
        if isinstance(single, SharedPlan):
            least = worth_rps(single.problem, single.evaluation) - 1e-3
            assert worth_rps(best.problem, best.evaluation) >= least


def test_more_llms_than_gpus_must_share() -> None:
    plan = plan_of(1.0, 1.0, 1.0)
    assert isinstance(plan, SharedPlan)
    assert plan.status is Status.FEASIBLE
    assert any(each.unit.is_shared for each in plan.placed.units)
    assert plan.verdict.startswith("share GPUs")
    lonely = plan_of(1.0, 1.0, 1.0, method="spatial")
    assert isinstance(lonely, SharedResult)
    assert lonely.status is Status.INFEASIBLE


def test_an_llm_alone_does_not_share() -> None:
    plan = plan_of(3.0, gpus=1)
    assert isinstance(plan, SharedPlan)
    assert "do not share" in plan.verdict


def test_promises_are_lowered_until_they_are_kept() -> None:
    # Far more than two GPUs serve: what is promised is what the simulation confirms.
    plan = plan_of(400.0, 300.0, 200.0)
    assert isinstance(plan, SharedPlan)
    assert plan.status.is_success == plan.evaluation.is_met
    assert plan.evaluation.within_slo_rps <= plan.promised_rps * 1.05


def test_a_plan_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    plan = plan_of(2.0, 1.0)
    assert isinstance(plan, SharedPlan)
    for name in ("plan.json", "plan.yaml"):
        write_shared_plan(plan, tmp_path / name)
        # The tiny library is not the one a file is checked with: only the form is.
        assert (tmp_path / name).read_text(encoding="utf-8").count(
            "shared-plan-v1"
        ) == 1


def test_a_plan_with_a_gpu_twice_does_not_hold() -> None:
    plan = plan_of(2.0, 1.0, 1.0)
    assert isinstance(plan, SharedPlan)
    twice = replace(plan.placed, units=(plan.placed.units[0],) * 2)
    with pytest.raises(InputError, match="each GPU in one unit only"):
        check_shared_plan(replace(plan, placed=twice))


def test_another_kind_of_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text('{"api_version": "phaseplan/plan-v1"}', encoding="utf-8")
    with pytest.raises(InputError, match="shared-plan-v1"):
        read_shared_plan(path)


def test_least_cost_serves_everything() -> None:
    goal = SharedObjective(goal=SharedGoal.MIN_COST)
    plan = plan_of(2.0, 1.0, gpus=4, objective=goal)
    assert isinstance(plan, SharedPlan)
    assert plan.placed.num_gpus == 1
    assert plan.evaluation.is_met


def first_missed(evaluation: SharedEvaluation) -> SharedEvaluation:
    """The same with no request of the first service in time."""
    first, *others = evaluation.services
    missed = replace(first.attainment, joint_frac=0.0, is_met=False)
    late = replace(first, attainment=missed)
    return replace(evaluation, services=(late, *others))


def test_what_a_plan_promises_was_simulated_to_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem = tiny_shared(2.0, 1.0)
    found = place_services(problem, TINY_LIBRARY)
    real = serve(problem, book_of(problem), found.placed)
    name = real.services[0].service
    seen: list[PlacedUnits] = []

    def never_met(problem, book, placed, *, seed):  # type: ignore[no-untyped-def]
        seen.append(placed)
        return first_missed(real)

    monkeypatch.setattr(shared_plan, "serve", never_met)
    held = hold(problem, book_of(problem), found, seed=0)
    assert held.evaluation.missed == (name,)
    assert held.placed is seen[-1]
    less = 0.9**shared_plan.MAX_ROUNDS * found.placed.served_rps(name)
    assert held.placed.served_rps(name) == pytest.approx(less)


def test_no_search_is_left_without_its_simulation() -> None:
    goal = SharedObjective(goal=SharedGoal.MIN_COST)
    problem = tiny_shared(2.0, 1.0, objective=goal)
    found = place_services(problem, TINY_LIBRARY)
    real = serve(problem, book_of(problem), found.placed)
    missed = real.services[0].service
    asked: list[float] = []
    simulated: list[SharedResult] = []

    def searched(headroom: Mapping[str, float]) -> SharedResult:
        asked.append(headroom.get(missed, 1.0))
        return replace(found, runtime_s=float(len(asked)))

    def missing(found: SharedResult) -> Served:
        simulated.append(found)
        assert found.placed is not None
        return Served(found=found, placed=found.placed, evaluation=first_missed(real))

    _, (last,) = search_and_confirm(problem, searched, missing)
    assert len(asked) == len(simulated) == shared_plan.MAX_ROUNDS + 1
    assert asked == pytest.approx([1.15**i for i in range(len(asked))])
    assert last.found.runtime_s == len(asked)


def test_shared_phases_fall_short_where_they_serve_less_than_promised() -> None:
    problem = tiny_shared(
        8.0, 4.0, slo=Slo(ttft_ms=200.0, tpot_ms=30.0), cluster=tiny_cluster(2, 1)
    )
    method = SharingMethod.DISAGGREGATED
    found = place_services(problem, TINY_LIBRARY, method=method)
    evaluation = serve(problem, book_of(problem), found.placed)
    kept = Served(found=found, placed=found.placed, evaluation=evaluation)
    assert not falls_short(kept)
    less = replace(evaluation, within_slo_rps=0.9 * evaluation.within_slo_rps)
    assert falls_short(replace(kept, evaluation=less))
    assert falls_short(replace(kept, evaluation=first_missed(evaluation)))
    # Nor do units without shared phases have anything simpler to fall back on.
    space = replace(problem.search, shares_phases=False)
    whole = place_services(problem, TINY_LIBRARY, space=space)
    other = Served(found=whole, placed=whole.placed, evaluation=less)
    assert not falls_short(other)


def test_simpler_units_have_headroom_too(monkeypatch: pytest.MonkeyPatch) -> None:
    goal = SharedObjective(goal=SharedGoal.MIN_COST)
    problem = tiny_shared(2.0, 1.0, objective=goal)
    found = place_services(problem, TINY_LIBRARY)
    real = serve(problem, book_of(problem), found.placed)
    asked: dict[bool, list[float]] = {True: [], False: []}

    def place(problem, latency, *, space, headroom, **given):  # type: ignore[no-untyped-def]
        shares = space is None or space.shares_phases
        asked[shares].append(headroom.get("a", 1.0))
        return found

    def held(problem, book, found, *, seed):  # type: ignore[no-untyped-def]
        # Phases that are not shared serve all from a third more on.
        is_enough = bool(asked[False]) and asked[False][-1] > 1.3
        evaluation = real if is_enough else first_missed(real)
        return Served(found=found, placed=found.placed, evaluation=evaluation)

    monkeypatch.setattr(shared_plan, "place_services", place)
    monkeypatch.setattr(shared_plan, "hold", held)
    monkeypatch.setattr(shared_plan, "falls_short", lambda served: True)
    plan = plan_services(problem, TINY_LIBRARY, method="exact")
    assert isinstance(plan, SharedPlan)
    assert plan.evaluation.is_met
    assert asked[False] == pytest.approx([1.0, 1.15, 1.15**2])
