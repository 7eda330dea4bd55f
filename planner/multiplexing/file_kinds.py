"""Files of several services told from those of one, without loading what plans them."""

from collections.abc import Mapping
from typing import Any

from planner.multiplexing.problem import SharedGoal
from planner.objective import Goal

SHARED_PLAN_VERSION = "phaseplan/shared-plan-v1"


def is_shared_problem(data: Mapping[str, Any]) -> bool:
    """Whether a problem's mapping is about services that share the cluster.

    It has several, or a goal that only they have.
    """
    services, objective = data.get("services"), data.get("objective")
    goal = objective.get("goal") if isinstance(objective, Mapping) else None
    is_shared_goal = goal in set(SharedGoal) - {str(each) for each in Goal}
    return is_shared_goal or (isinstance(services, list) and len(services) > 1)


def is_shared_plan(data: Mapping[str, Any]) -> bool:
    """Whether a mapping is a plan for several services."""
    return data.get("api_version") == SHARED_PLAN_VERSION
