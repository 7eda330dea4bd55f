"""Plan files of several services: read, checked, written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clusters.fields import InputError
from clusters.mapping import from_mapping, to_mapping
from clusters.serde import read_mapping
from planner.files import name_traces, write_mapping
from planner.multiplexing.file_kinds import SHARED_PLAN_VERSION, is_shared_plan
from planner.multiplexing.placed import check_units
from planner.multiplexing.shared_plan import SharedPlan
from planner.multiplexing.solve import book_of
from planner.solve import library_for


def shared_plan_to_mapping(
    plan: SharedPlan, *, folder: str | Path = "."
) -> dict[str, Any]:
    """Plain data of a plan; traces are named as seen from `folder`."""
    mapping: dict[str, Any] = to_mapping(plan)
    name_traces(mapping["problem"], folder)
    return mapping


def write_shared_plan(plan: SharedPlan, path: str | Path) -> None:
    """Write a plan file, whole or not at all: JSON, or YAML where the name ends so."""
    write_mapping(shared_plan_to_mapping(plan, folder=Path(path).parent), path)


def read_shared_plan(path: str | Path) -> SharedPlan:
    """Read and check a plan file of several services.

    Raises
    ------
    InputError
        If it is no such plan, or its units do not hold.
    """
    return shared_plan_of_mapping(read_mapping(path), path)


def shared_plan_of_mapping(data: Mapping[str, Any], path: str | Path) -> SharedPlan:
    """Check a plan file that has been read: `read_shared_plan` without opening it."""
    if not is_shared_plan(data):
        found, form = data.get("api_version"), f"'{SHARED_PLAN_VERSION}'"
        raise InputError("api_version", found, form, file=str(path))
    plan = from_mapping(SharedPlan, data, file=str(path))
    try:
        check_shared_plan(plan)
    except InputError as error:
        raise error.in_file(str(path)) from None
    return plan


def check_shared_plan(plan: SharedPlan) -> None:
    """Check a plan against its own problem.

    Raises
    ------
    InputError
        Naming the first thing that does not hold.
    """
    book = book_of(plan.problem, library_for(plan.problem, None))
    check_units(plan.problem, book, plan.placed)
