"""The shipped catalogue: GPU types, instance types and example clusters by name."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from clusters.fields import InputError
from clusters.mapping import nearest
from clusters.serde import read_mapping

_FOLDER = Path(__file__).parent / "catalog"


@cache
def shipped_entries(kind: str) -> Mapping[str, Mapping[str, Any]]:
    """Entries of the catalogue file of one kind (`gpus`, `instances`) by name."""
    file = _FOLDER / f"{kind}.yaml"
    entries: dict[str, Mapping[str, Any]] = {}
    for name, fields in read_mapping(file).items():
        entries[name] = {"name": name, **fields}
    return entries


def shipped_entry(kind: str, name: str) -> Mapping[str, Any]:
    """One entry of the catalogue.

    Raises
    ------
    InputError
        Naming the nearest entry, if there is none of that name.
    """
    entries = shipped_entries(kind)
    if name not in entries:
        hint = nearest(name, entries)
        raise InputError("", name, f"a name in the catalogue of {kind} ({hint})")
    return entries[name]


@cache
def shipped_clusters() -> Mapping[str, Path]:
    """Files of the example clusters by name."""
    return {path.stem: path for path in sorted((_FOLDER / "clusters").glob("*.yaml"))}
