"""The exporters by name: the built-in ones, and those of other distributions.

Another distribution adds a target with an entry point whose value is an instance of a
class that meets `planner.export.contract.Exporter`:

    [project.entry-points."phaseplan.exporters"]
    mytarget = "my_package.my_module:exporter"
"""

from importlib.metadata import entry_points

from clusters.fields import InputError
from clusters.mapping import nearest
from planner.errors import PlannerError
from planner.export.contract import Exporter
from planner.export.vllm import VllmExporter
from planner.plan import Plan

ENTRY_POINT_GROUP = "phaseplan.exporters"

_BUILT_IN: tuple[Exporter, ...] = (VllmExporter(),)


def target_names() -> tuple[str, ...]:
    """Everything that `export(to=...)` takes; built-in targets first."""
    built_in = [exporter.target for exporter in _BUILT_IN]
    added = entry_points(group=ENTRY_POINT_GROUP).names
    return (*built_in, *sorted(added - set(built_in)))


def exporter_for(target: str) -> Exporter:
    """The exporter of a target; no entry point replaces a built-in one.

    Raises
    ------
    InputError
        Naming the nearest target, if there is none of that name.
    """
    for exporter in _BUILT_IN:
        if exporter.target == target:
            return exporter
    for entry in entry_points(group=ENTRY_POINT_GROUP, name=target):
        loaded: Exporter = entry.load()
        return loaded
    hint = nearest(target, target_names())
    raise InputError("to", target, f"an export target ({hint})")


def export(plan: Plan, to: str = "vllm") -> dict[str, str]:
    """Write a plan for a serving system.

    Parameters
    ----------
    plan
        A plan that holds (`planner.check.check_plan`).
    to
        Name of the target, one of `target_names`.

    Returns
    -------
    dict[str, str]
        Text of each file by its name.

    Raises
    ------
    InputError
        If there is no such target.
    PlannerError
        If the target cannot express the plan; the message says why.
    """
    exporter = exporter_for(to)
    reason = exporter.supports(plan)
    if reason is not None:
        raise PlannerError(f"the plan cannot be exported to {to}: {reason}")
    return exporter.export(plan)
