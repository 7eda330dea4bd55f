"""Plan files: JSON that replays, byte for byte the same for the same inputs."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from clusters.fields import InputError
from clusters.mapping import from_mapping, to_mapping
from clusters.serde import dump_json, read_mapping, write_text_atomic
from planner.check import check_plan
from planner.plan import PLAN_VERSION, Plan


def plan_to_mapping(plan: Plan) -> dict[str, Any]:
    """Plain data of a plan, in the order of its fields."""
    mapping: dict[str, Any] = to_mapping(plan)
    return mapping


def write_plan(plan: Plan, path: str | Path) -> None:
    """Write a plan file (atomically: an old file stays whole until the new one is)."""
    write_text_atomic(path, dump_json(plan_to_mapping(plan)))


def read_plan(path: str | Path) -> Plan:
    """Read and check a plan file.

    Raises
    ------
    InputError
        If it is no plan, or the plan does not hold (`planner.check.check_plan`).
    """
    data = read_mapping(path)
    found = data.get("api_version")
    if found != PLAN_VERSION:
        raise InputError("api_version", found, f"'{PLAN_VERSION}'", file=str(path))
    plan = from_mapping(Plan, data, file=str(path))
    try:
        check_plan(plan)
    except InputError as error:
        raise error.in_file(str(path)) from None
    return plan


def input_hashes(paths: Iterable[str | Path]) -> tuple[tuple[str, str], ...]:
    """SHA-256 of each file, by its name (not its folder, which says nothing)."""
    return tuple(
        (Path(path).name, hashlib.sha256(Path(path).read_bytes()).hexdigest())
        for path in paths
    )
