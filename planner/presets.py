"""Presets: named entries of the planner's catalogue files, read once."""

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from clusters.fields import InputError
from clusters.mapping import from_mapping, nearest
from clusters.serde import read_mapping

T = TypeVar("T")

_FOLDER = Path(__file__).parent / "catalog"


@cache
def preset_entries(file: str) -> Mapping[str, Any]:
    """Entries of a file of the catalogue by name; another name for one is resolved."""
    entries = read_mapping(_FOLDER / file)
    return {
        name: entries[entry] if isinstance(entry, str) else entry
        for name, entry in entries.items()
    }


def load_preset(
    cls: type[T], file: str, name: str, more: Mapping[str, Any] | None = None
) -> T:
    """The entry of that name as a `cls`; `more` are fields from elsewhere.

    Raises
    ------
    InputError
        On an entry that is not one, naming file and key.
    """
    data = {**preset_entries(file)[name], **(more or {})}
    return from_mapping(cls, data, where=name, file=str(_FOLDER / file))


def check_preset(key: str, name: str, known: Iterable[str], form: str) -> None:
    """Refuse a name that is not among those known.

    Raises
    ------
    InputError
        Naming the nearest; `form` says what the name is of.
    """
    names = tuple(known)
    if name not in names:
        raise InputError(key, name, f"{form} ({nearest(name, names)})")
