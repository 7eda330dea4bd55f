"""Result: its text is the report a person wants first."""

import math

import pytest

from planner.objective import Goal
from planner.result import Status, gap_to
from planner.search.registry import methods_of
from planner.solve import solve
from tests.planner.tiny_problems import QUICK, TINY_LIBRARY, tiny_cluster, tiny_problem


@pytest.fixture(scope="module")
def result():
    problem = tiny_problem(cluster=tiny_cluster(1, 2))
    return solve(problem, TINY_LIBRARY, effort=QUICK)


def test_the_report_leads_with_the_status_and_names_what_matters(result):
    text = str(result)
    assert text.splitlines()[0] == "FEASIBLE"
    goodput = result.best.goodput.rate_rps
    for part in (
        result.best.deployment.describe(),
        f"{goodput:.3f} requests/s",
        "$/h",
        result.best.verdict,
        f"bound     {result.bound:.4g}, gap {result.gap_frac:.0%}",
        "aggregated: 7 of 7 simulated",
        "searched for",
    ):
        assert part in text


def test_counts_of_every_method_are_whole(result):
    names = [method.name for method in methods_of("auto")]
    assert [each.method for each in result.counts] == names
    for each in result.counts:
        rejected = sum(each.rejected.values())
        assert each.num_enumerated == each.num_evaluated + rejected


def test_a_skipped_method_says_why():
    problem = tiny_problem(cluster=tiny_cluster(2, 1))
    text = str(solve(problem, TINY_LIBRARY, effort=QUICK))
    assert "distserve-low: skipped, no node has two GPUs" in text


def test_only_plans_that_meet_the_slo_are_a_success():
    assert [status for status in Status if status.is_success] == [
        Status.OPTIMAL,
        Status.FEASIBLE,
    ]


def test_the_gap_is_relative_and_never_negative():
    assert gap_to(Goal.MAX_GOODPUT, 6.0, 8.0) == pytest.approx(0.25)
    assert gap_to(Goal.MIN_GPUS, 4.0, 3.0) == pytest.approx(0.25)
    assert gap_to(Goal.MAX_GOODPUT, 9.0, 8.0) == 0.0


@pytest.mark.parametrize("bound", [None, 0.0, math.inf])
def test_an_unknown_bound_leaves_the_gap_unknown(bound):
    assert gap_to(Goal.MAX_GOODPUT, 6.0, bound) is None
