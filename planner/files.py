"""Plan files: JSON that replays, byte for byte the same for the same inputs."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from clusters.fields import InputError
from clusters.mapping import from_mapping, to_mapping
from clusters.serde import dump_json, dump_yaml, read_mapping, write_text_atomic
from planner.check import check_plan
from planner.plan import PLAN_VERSION, Plan


def plan_to_mapping(plan: Plan, *, folder: str | Path = ".") -> dict[str, Any]:
    """Plain data of a plan, in the order of its fields.

    A trace is named as seen from `folder`, where the plan's file is going to be.
    """
    mapping: dict[str, Any] = to_mapping(plan)
    name_traces(mapping["problem"], folder)
    return mapping


def name_traces(problem: dict[str, Any], folder: str | Path) -> None:
    """Let the plain data of a problem name its traces as seen from `folder`."""
    for service in problem["services"]:
        workload = service["workload"]
        for part in (workload, workload.get("lengths")):
            if isinstance(part, dict) and part.get("trace") is not None:
                part["trace"] = seen_from(folder, part["trace"])


def seen_from(folder: str | Path, path: str | Path) -> str:
    """A path, given from the working folder, as one that starts from `folder`."""
    relative = os.path.relpath(Path(path).resolve(), Path(folder).resolve())
    return Path(relative).as_posix()


def write_plan(plan: Plan, path: str | Path) -> None:
    """Write a plan file: JSON, or YAML where the name ends so."""
    write_mapping(plan_to_mapping(plan, folder=Path(path).parent), path)


def write_mapping(mapping: Mapping[str, Any], path: str | Path) -> None:
    """Write plain data, whole or not at all: an old file stays until the new one is.

    JSON, or YAML where the name ends so.
    """
    dump = dump_yaml if Path(path).suffix in (".yaml", ".yml") else dump_json
    write_text_atomic(path, dump(mapping))


def read_plan(path: str | Path) -> Plan:
    """Read and check a plan file.

    Raises
    ------
    InputError
        If it is no plan, or the plan does not hold (`planner.check.check_plan`).
    """
    return plan_of_mapping(read_mapping(path), path)


def plan_of_mapping(data: Mapping[str, Any], path: str | Path) -> Plan:
    """Check a plan file that has been read: `read_plan` without opening it again."""
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
