"""Integer programmes: statuses, bounds and prices that mean what they say."""

import pulp
import pytest

from clusters.fields import InputError
from planner.plan import Status
from planner.search import milp
from planner.search.milp import (
    Solver,
    is_installed,
    solve_milp,
    solve_relaxation,
    whole_value,
)

SOLVERS = [
    pytest.param(
        solver,
        marks=pytest.mark.skipif(not is_installed(solver), reason=f"no {solver}"),
    )
    for solver in Solver
]
BOTH = pytest.mark.parametrize("solver", SOLVERS)


def knapsack(*, capacity: float = 5.0) -> tuple[pulp.LpProblem, list[pulp.LpVariable]]:
    """Values 6, 10, 12 of weights 1, 2, 3, and 5 for nothing."""
    model = pulp.LpProblem("knapsack", pulp.LpMaximize)
    taken = [model.add_variable(f"x{i}", cat=pulp.LpBinary) for i in range(3)]
    model += pulp.lpDot((6, 10, 12), taken) + 5
    model += pulp.lpDot((1, 2, 3), taken) <= capacity, "weight"
    return model, taken


@BOTH
def test_the_optimum_is_found_and_proven(solver: Solver) -> None:
    model, taken = knapsack()
    outcome = solve_milp(model, solver=solver)
    # The second and the third weigh 5 and are worth 22, and 5 for nothing.
    assert outcome.status is Status.OPTIMAL
    assert (outcome.value, outcome.bound) == pytest.approx((27.0, 27.0))
    assert outcome.gap_frac == pytest.approx(0.0)
    assert [whole_value(x) for x in taken] == [0, 1, 1]


@BOTH
def test_the_relaxation_tells_what_a_limit_is_worth(solver: Solver) -> None:
    model, _ = knapsack()
    relaxed = solve_relaxation(model, solver=solver)
    # Best value by weight first: 6, 10, and two thirds of 12; a unit more is worth 4.
    assert relaxed.value == pytest.approx(5 + 6 + 10 + 8)
    assert relaxed.prices["weight"] == pytest.approx(4.0)


@BOTH
def test_prices_of_a_minimum_have_its_sign(solver: Solver) -> None:
    model = pulp.LpProblem("least", pulp.LpMinimize)
    x = model.add_variable("x", 0)
    model += 2 * x + 1
    model += x >= 1.5, "least"
    relaxed = solve_relaxation(model, solver=solver)
    assert (relaxed.value, relaxed.prices["least"]) == pytest.approx((4.0, 2.0))


@BOTH
def test_a_minimum_rounds_up(solver: Solver) -> None:
    model = pulp.LpProblem("least", pulp.LpMinimize)
    x = model.add_variable("x", 0, cat=pulp.LpInteger)
    model += 2 * x + 1
    model += x >= 1.5
    outcome = solve_milp(model, solver=solver)
    assert (outcome.value, outcome.bound) == pytest.approx((5.0, 5.0))


@BOTH
def test_impossible_is_a_status(solver: Solver) -> None:
    model, taken = knapsack()
    model += pulp.lpSum(taken) >= 4
    outcome = solve_milp(model, solver=solver)
    assert outcome.status is Status.INFEASIBLE
    assert outcome.value is None
    assert outcome.bound is None
    assert outcome.gap_frac is None


def test_unbounded_is_a_mistake() -> None:
    model = pulp.LpProblem("more", pulp.LpMaximize)
    x = model.add_variable("x", 0, cat=pulp.LpInteger)
    model += x
    model += x >= 1
    with pytest.raises(InputError):
        solve_milp(model)


def hard_program() -> pulp.LpProblem:
    """Market split (Cornuejols, Dawande 1999): small, and hard for any solver."""
    size, seed = 40, 12345
    model = pulp.LpProblem("split", pulp.LpMinimize)
    x = [model.add_variable(f"x{i}", cat=pulp.LpBinary) for i in range(size)]
    off = [model.add_variable(f"s{k}", 0) for k in range(10)]
    model += pulp.lpSum(off) + 1
    for row in range(5):
        weights = []
        for _ in range(size):
            seed = (1103515245 * seed + 12345) % 2**31
            weights.append(seed % 100)
        split = pulp.lpDot(weights, x) + off[2 * row] - off[2 * row + 1]
        model += split == sum(weights) // 2
    return model


def test_out_of_time_is_feasible_with_a_bound_that_holds() -> None:
    outcome = solve_milp(hard_program(), time_limit_s=0.3)
    assert outcome.status in (Status.FEASIBLE, Status.NOT_FOUND)
    if outcome.value is not None:
        assert outcome.bound is not None
        assert outcome.bound <= outcome.value
        assert outcome.gap_frac > 0


def test_an_error_of_the_solver_is_tried_again_and_bounds_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used = []
    configured = milp._configured
    monkeypatch.setattr(
        milp,
        "_configured",
        lambda *args, **options: used.append(options) or configured(*args, **options),
    )
    model, _ = knapsack()
    assert solve_milp(model).bound == pytest.approx(27.0)
    assert used == [{"mip": True}]
    # What HiGHS calls optimal counts as an error of its own, both times.
    monkeypatch.setattr(milp, "_FAILURES", {"kOptimal"})
    assert solve_milp(model).bound is None
    assert used[1:] == [{"mip": True}, {"mip": True, **milp._STRICT}]


def test_a_gap_that_is_good_enough_ends_the_search() -> None:
    model, _ = knapsack()
    outcome = solve_milp(model, gap_frac=0.5)
    assert outcome.status is Status.OPTIMAL
    assert outcome.bound >= 27.0 - 1e-6
    assert outcome.value >= outcome.bound * 0.5


def test_without_highs_cbc_solves(monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_installed(Solver.CBC):
        pytest.skip("no CBC")
    monkeypatch.setattr(pulp.HiGHS, "available", lambda self: False)
    outcome = solve_milp(knapsack()[0])
    assert (outcome.solver, outcome.value) == (Solver.CBC, pytest.approx(27.0))


def test_a_solver_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulp.HiGHS, "available", lambda self: False)
    with pytest.raises(InputError, match="solver"):
        solve_milp(knapsack()[0], solver=Solver.HIGHS)
