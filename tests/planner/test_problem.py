"""Problem: what a question must say."""

from dataclasses import replace

import pytest

from clusters.fields import InputError
from planner.objective import Goal
from planner.problem import SearchSpace
from planner.workload.workload import Workload
from tests.planner.tiny_problems import tiny_problem

PROBLEM = tiny_problem()


def test_a_goal_with_a_target_needs_a_rate():
    closed = Workload.closed_loop(concurrency=4, lengths="10x10")
    service = replace(PROBLEM.service, workload=closed)
    goal = replace(PROBLEM.objective, goal=Goal.MIN_GPUS)
    with pytest.raises(InputError, match="rate_rps"):
        replace(PROBLEM, services=(service,), objective=goal)


def test_gpu_types_must_be_in_the_cluster():
    with pytest.raises(InputError, match=r"search.gpu_types\[0\]"):
        replace(PROBLEM, search=SearchSpace(gpu_types=("h100_sxm",)))


def test_there_is_one_service():
    with pytest.raises(InputError, match="exactly one service"):
        replace(PROBLEM, services=())


def test_another_format_is_refused():
    with pytest.raises(InputError, match="api_version"):
        replace(PROBLEM, api_version="phaseplan/v0")


def test_degrees_are_at_least_one():
    with pytest.raises(InputError, match=r"tp\[1\]"):
        SearchSpace(tp=(1, 0))
