"""Leftovers: when pipelines of unlike stages can add something."""

import pytest

from planner.search.pipelines.leftovers import (
    least_gpus,
    why_no_leftovers,
    why_not_unlike,
)
from tests.planner.unlike_problems import two_types, unlike_problem

SMALL = 24_000.0
"""Room for a layer or two beside what a step takes; six layers need 15,000 more."""


def test_two_types_and_stages_to_join_are_needed():
    assert why_not_unlike(unlike_problem()) is None
    one = unlike_problem(two_types(), gpu_types=("big",))
    assert why_not_unlike(one) == "all GPUs are of one type"
    flat = unlike_problem(max_pp=1)
    assert why_not_unlike(flat) is not None
    assert "max_pp" in why_not_unlike(flat)


def test_types_that_serve_by_themselves_leave_nothing_over():
    problem = unlike_problem()
    assert least_gpus(problem, "small") == 1
    assert why_no_leftovers(problem) is not None


@pytest.mark.parametrize(
    ("cluster", "least"),
    [
        # Two GPUs cannot hold the model, nor three a request beside it; four can,
        # but on two nodes.
        (two_types(1, 1, small_bytes=SMALL), None),
        (two_types(1, 2, small_bytes=SMALL), 4),
    ],
)
def test_a_type_that_needs_others_or_several_hosts_has_leftovers(cluster, least):
    problem = unlike_problem(cluster, tp=(1,))
    assert least_gpus(problem, "small") == least
    assert why_no_leftovers(problem) is None


def test_gpus_that_are_not_to_be_had_are_no_replica():
    cluster = two_types(1, 2, small_bytes=SMALL)
    problem = unlike_problem(cluster, tp=(1,), available_gpus={"small": 3})
    assert least_gpus(problem, "small") is None
