"""Decide which GPUs prefill, which decode, with which parallelism, and prove it.

The road: ``Problem -> solve -> Result.best (a Plan) -> simulate / explain / export``.
Names are imported when they are first used, so importing `planner` costs nothing.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clusters.cluster import Cluster
    from clusters.fields import InputError
    from models.latency.library import LatencyLibrary
    from models.llm import LlmSpec
    from planner.check import check_plan
    from planner.deployment import Deployment
    from planner.errors import PlannerError, UnknownMethodError, UnsupportedProblemError
    from planner.explain import explain
    from planner.files import read_plan, write_plan
    from planner.multiplexing.problem import SharedProblem
    from planner.multiplexing.shared_plan import SharedPlan, plan_services
    from planner.objective import Goal, Objective
    from planner.plan import Plan
    from planner.problem import EngineSettings, Problem, SearchSpace, Service
    from planner.replay import ReplayOptions, replay
    from planner.result import Result, Status
    from planner.slo import Slo, SloRule
    from planner.solve import solve
    from planner.stop import AnyOf, MaxEvaluations, MaxRuntime, Never, NoImprovement
    from planner.workload.workload import Workload

_HOMES = {
    "AnyOf": "planner.stop",
    "Cluster": "clusters.cluster",
    "Deployment": "planner.deployment",
    "EngineSettings": "planner.problem",
    "Goal": "planner.objective",
    "InputError": "clusters.fields",
    "LatencyLibrary": "models.latency.library",
    "LlmSpec": "models.llm",
    "MaxEvaluations": "planner.stop",
    "MaxRuntime": "planner.stop",
    "Never": "planner.stop",
    "NoImprovement": "planner.stop",
    "Objective": "planner.objective",
    "Plan": "planner.plan",
    "PlannerError": "planner.errors",
    "Problem": "planner.problem",
    "ReplayOptions": "planner.replay",
    "Result": "planner.result",
    "SearchSpace": "planner.problem",
    "Service": "planner.problem",
    "SharedPlan": "planner.multiplexing.shared_plan",
    "SharedProblem": "planner.multiplexing.problem",
    "Slo": "planner.slo",
    "SloRule": "planner.slo",
    "Status": "planner.result",
    "UnknownMethodError": "planner.errors",
    "UnsupportedProblemError": "planner.errors",
    "Workload": "planner.workload.workload",
    "check_plan": "planner.check",
    "explain": "planner.explain",
    "plan_services": "planner.multiplexing.shared_plan",
    "read_plan": "planner.files",
    "replay": "planner.replay",
    "solve": "planner.solve",
    "write_plan": "planner.files",
}

__all__ = [
    "AnyOf",
    "Cluster",
    "Deployment",
    "EngineSettings",
    "Goal",
    "InputError",
    "LatencyLibrary",
    "LlmSpec",
    "MaxEvaluations",
    "MaxRuntime",
    "Never",
    "NoImprovement",
    "Objective",
    "Plan",
    "PlannerError",
    "Problem",
    "ReplayOptions",
    "Result",
    "SearchSpace",
    "Service",
    "SharedPlan",
    "SharedProblem",
    "Slo",
    "SloRule",
    "Status",
    "UnknownMethodError",
    "UnsupportedProblemError",
    "Workload",
    "check_plan",
    "explain",
    "plan_services",
    "read_plan",
    "replay",
    "solve",
    "write_plan",
]


def __getattr__(name: str) -> object:
    """Import a public name from its module on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'planner' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


class _Package(ModuleType):
    """The package, in which `planner.solve` is the function and not its module.

    The import system binds a module to its package once it is loaded, which would
    hide the function of the same name from everyone who asks later.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
