"""What the tables of a plan leave out, and what they say once."""

from dataclasses import replace

import pytest

from planner.cli.plan_tables import (
    MAX_ROWS,
    MAX_WORTH,
    against,
    allocation_rows,
    folded,
    shortened,
)
from planner.objective import Goal, Objective
from planner.plan import AllocationBound, Alternative, Worth
from tests.planner.export.plans import one_node


def test_warning_of_all_shapes_is_said_once_and_names_none() -> None:
    warnings = ["prefill a TP2: measure", "decode b TP1: measure"]
    shapes = {"prefill a TP2", "decode b TP1"}
    assert folded(warnings, shapes) == ["measure"]


def test_warning_of_some_shapes_names_them() -> None:
    warnings = ["prefill a: measure", "prefill b: measure", "decode c: extrapolated"]
    shapes = {"prefill a", "prefill b", "decode c"}
    assert folded(warnings, shapes) == [
        "prefill a, prefill b: measure",
        "decode c: extrapolated",
    ]


def test_warning_about_something_else_stays_whole() -> None:
    assert folded(["trace: sorted"], {"prefill a"}) == ["trace: sorted"]


def test_long_table_says_how_many_rows_are_left_out() -> None:
    rows = [[str(number), "x"] for number in range(MAX_ROWS + 1)]
    shown = shortened(rows)
    # 24 rows are kept: 23 of 25, and one that stands for the other 2.
    assert len(shown) == MAX_ROWS
    assert shown[-1] == ["2 more", ""]
    assert shortened(rows[:MAX_ROWS]) == rows[:MAX_ROWS]


def test_allocation_says_what_would_help_most() -> None:
    many = tuple(Worth(limit=f"thing {n}", gain=1.0 / (n + 1)) for n in range(9))
    bound = AllocationBound(
        value=10.0, whole_value=9.0, whole_gap_frac=0.1, gap_frac=0.2, worth=many
    )
    first, *others = allocation_rows(bound, Goal.MAX_GOODPUT)
    assert first[0] == "Allocation"
    assert "10 requests/s at best" in first[1]
    assert "gap 20.0%" in first[1]
    assert others[0] == ("Worth", "one more thing 0: 1 requests/s")
    assert len(others) == MAX_WORTH


def test_what_would_not_help_is_one_line() -> None:
    worth = (Worth(limit="GPU a", gain=2.5), Worth(limit="GPU b", gain=0.0))
    bound = AllocationBound(value=4.0, whole_value=5.0, whole_gap_frac=0.2, worth=worth)
    assert allocation_rows(bound, Goal.MIN_COST)[1:] == [
        ("Worth", "one more GPU a: 2.5 $/h saved"),
        ("Worth", "one more of anything else: 0"),
    ]


@pytest.mark.parametrize("goal", list(Goal))
def test_every_goal_has_words_for_its_bound(goal: Goal) -> None:
    bound = AllocationBound(value=4.0, whole_value=4.0, whole_gap_frac=0.0)
    ((_, text),) = allocation_rows(bound, goal)
    assert text.startswith("replicas at their simulated rates: 4 ")


def alternative(rate_rps: float, usd: float | None, gpus: int) -> Alternative:
    return Alternative(
        method="m",
        deployment="d",
        is_disaggregated=False,
        num_gpus=gpus,
        goodput=replace(one_node().goodput, rate_rps=rate_rps),
        usd_per_hour=usd,
    )


def test_alternatives_are_compared_by_the_goal() -> None:
    plan = one_node()
    mine, gpus = plan.goodput.rate_rps, plan.deployment.num_gpus
    plan = replace(plan, usd_per_hour=10.0)
    each = alternative(2.0 * mine, 12.5, 2 * gpus)
    told = {}
    for goal in Goal:
        problem = replace(plan.problem, objective=Objective(goal=goal))
        told[goal] = against(replace(plan, problem=problem), each)
    assert told == {
        Goal.MAX_GOODPUT: "+100%",
        Goal.MAX_GOODPUT_PER_GPU: "+0%",
        Goal.MIN_GPUS: "+100%",
        Goal.MIN_COST: "+25%",
        Goal.MIN_POWER: "-",
    }
    slow = alternative(0.5 * mine, 2.5, gpus)
    assert against(replace(plan, problem=problem), slow) == "too slow"
