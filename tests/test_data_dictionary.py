"""Every number in a frozen dataclass says its unit, so that `phaseplan schema` can."""

import dataclasses
import importlib
import inspect
import pkgutil
import types
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("clusters", "models", "profiler", "planner")
OPTIONAL_DEPENDENCIES = {"aiconfigurator", "matplotlib", "torch"}

# "module.Class.field" -> why a numeric field goes without a unit.
FIELDS_WITHOUT_UNIT: dict[str, str] = {}
# A field with this suffix has a unit that starts so.
UNIT_OF_SUFFIX = {
    "_ms": "ms",
    "_bytes": "bytes",
    "_bytes_per_s": "bytes/s",
    "_frac": "1",
}


def test_numeric_fields_declare_their_unit() -> None:
    wrong = [
        f"{where} has no unit"
        for where, declared in numeric_fields()
        if not declared.metadata.get("unit") and where not in FIELDS_WITHOUT_UNIT
    ]
    assert wrong == []


def test_fields_have_the_unit_in_their_name() -> None:
    wrong = [
        f"{where}: {declared.metadata['unit']!r}"
        for where, declared in numeric_fields()
        if "unit" in declared.metadata
        for suffix, unit in UNIT_OF_SUFFIX.items()
        if declared.name.endswith(suffix)
        and not declared.metadata["unit"].startswith(unit)
    ]
    assert wrong == []


def numeric_fields() -> Iterator[tuple[str, "dataclasses.Field[typing.Any]"]]:
    """Fields of frozen dataclasses that hold quantities."""
    for frozen in frozen_dataclasses():
        for declared in dataclasses.fields(frozen):
            if holds_numbers(declared.type):
                yield f"{frozen.__module__}.{frozen.__name__}.{declared.name}", declared


def frozen_dataclasses() -> Iterator[type]:
    for package in PACKAGES:
        for info in pkgutil.walk_packages([str(ROOT / package)], f"{package}."):
            module = import_if_possible(info.name)
            for _, found in inspect.getmembers(module, inspect.isclass):
                if (
                    found.__module__ == info.name
                    and dataclasses.is_dataclass(found)
                    and params_of(found).frozen
                ):
                    yield found


def import_if_possible(name: str) -> types.ModuleType | None:
    """The module, or None where it needs an optional dependency that is not here."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name in OPTIONAL_DEPENDENCIES:
            return None
        raise


def params_of(dataclass: type) -> typing.Any:
    return dataclass.__dataclass_params__  # type: ignore[attr-defined]


def holds_numbers(annotation: object) -> bool:
    """Whether values are quantities; tuples of int are indices, which have no unit."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return any(holds_numbers(each) for each in typing.get_args(annotation))
    if typing.get_origin(annotation) is tuple:
        return float in typing.get_args(annotation)
    return annotation in (int, float)


@pytest.mark.parametrize(
    ("annotation", "numeric"),
    [
        (int, True),
        (float | None, True),
        (tuple[float, ...], True),
        (tuple[float, ...] | None, True),
        (bool, False),
        (str | None, False),
        (tuple[int, ...], False),
        (dict[str, int], False),
    ],
    ids=str,
)
def test_numeric_annotations_are_told_from_others(
    annotation: object, numeric: bool
) -> None:
    assert holds_numbers(annotation) is numeric
