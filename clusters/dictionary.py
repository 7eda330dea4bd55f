"""The data dictionary: what dataclasses say about their fields, as data.

Generated from `clusters.fields.spec`, so it cannot differ from what is checked: one
entry a class with one row a field, or a JSON Schema (draft 2020-12) with the units
under ``x-unit``.
"""

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin

from clusters.fields import spec
from clusters.mapping import to_mapping
from clusters.units import FILE_UNITS

DRAFT = "https://json-schema.org/draft/2020-12/schema"

_SCALARS: dict[Any, tuple[str, str]] = {
    bool: ("true/false", "boolean"),
    int: ("whole number", "integer"),
    float: ("number", "number"),
    str: ("text", "string"),
    types.NoneType: ("null", "null"),
}
_BOUNDS = {
    "gt": (">", "exclusiveMinimum"),
    "ge": (">=", "minimum"),
    "lt": ("<", "exclusiveMaximum"),
    "le": ("<=", "maximum"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldEntry:
    """One field in the data dictionary."""

    name: str = spec("Key in files.")
    type: str = spec("Form of the value, in words.")
    unit: str = spec("Unit; empty for text and objects.")
    required: bool = spec("Whether it must be given.")
    default: object = spec("Value where it is not given, as plain data.")
    range: str = spec("Allowed range, e.g. '> 0, <= 1'.")
    meaning: str = spec("What it is.")
    also: tuple[str, ...] = spec("Keys that give it in other units.", default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassEntry:
    """One class in the data dictionary."""

    name: str = spec("Name of the class.")
    meaning: str = spec("First line of its docstring.")
    fields: tuple[FieldEntry, ...] = spec("Its fields, in order.")


def dictionary_of(cls: type) -> tuple[ClassEntry, ...]:
    """Entries of a dataclass and of all that its fields hold, each once."""
    return tuple(
        ClassEntry(
            name=_name_of(each),
            meaning=_first_line(each),
            fields=tuple(
                _field_entry(declared, hint) for declared, hint in _fields_of(each)
            ),
        )
        for each in _nested(cls)
    )


def json_schema_of(cls: type) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the files that are read into a dataclass.

    A class with a file form of its own (a catalogue name, ``base:`` with what differs)
    may be written in ways that a schema does not see: of its mapping, only the types
    of the known keys are checked.
    """
    return {
        "$schema": DRAFT,
        "title": _name_of(cls),
        "$ref": _reference_to(cls),
        "$defs": {_name_of(each): _object_schema(each) for each in _nested(cls)},
    }


def file_keys(cls: type) -> dict[str, str]:
    """Keys that a file may use, each with the field it fills."""
    found = _fields_of(cls)
    keys = {declared.name: declared.name for declared, _ in found}
    for declared, hint in found:
        for also in _other_units(declared.name, hint):
            keys.setdefault(also, declared.name)
    return keys


def _nested(cls: type) -> list[type]:
    """`cls` and the dataclasses within it, in order of first appearance."""
    found = [cls]
    for each in found:  # grows while it is read
        for _, hint in _fields_of(each):
            found += [c for c in _dataclasses_in(hint) if c not in found]
    return list(dict.fromkeys(found))


def _dataclasses_in(hint: Any) -> Iterator[type]:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        yield hint
    for part in get_args(hint):
        yield from _dataclasses_in(part)


def _fields_of(cls: Any) -> list[tuple["dataclasses.Field[Any]", Any]]:
    """Fields that a file may give, with their types."""
    hints = typing.get_type_hints(cls)
    return [(f, hints[f.name]) for f in dataclasses.fields(cls) if f.init]


def _field_entry(declared: "dataclasses.Field[Any]", hint: Any) -> FieldEntry:
    required, default = _default_of(declared)
    bounds = [
        f"{sign} {_bound(declared.metadata[key])}"
        for key, (sign, _) in _BOUNDS.items()
        if declared.metadata.get(key) is not None
    ]
    return FieldEntry(
        name=declared.name,
        type=_in_words(hint),
        unit=declared.metadata.get("unit", ""),
        required=required,
        default=default,
        range=", ".join(bounds),
        meaning=declared.metadata.get("meaning", ""),
        also=_other_units(declared.name, hint),
    )


def _bound(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:g}"


def _default_of(declared: "dataclasses.Field[Any]") -> tuple[bool, object]:
    """Whether the field is required, and its default as plain data."""
    if declared.default is not dataclasses.MISSING:
        return False, to_mapping(declared.default)
    if declared.default_factory is not dataclasses.MISSING:
        return False, to_mapping(declared.default_factory())
    return True, None


def _other_units(name: str, hint: Any) -> tuple[str, ...]:
    """Keys of a number in other units: ``nic_gbit_per_s`` for ``nic_bytes_per_s``."""
    if not {hint, *get_args(hint)} & {int, float} or get_origin(hint) is tuple:
        return ()
    for ours, theirs in FILE_UNITS.items():
        if name == ours or name.endswith(f"_{ours}"):
            return tuple(name.removesuffix(ours) + suffix for suffix in theirs)
    return ()


def _in_words(hint: Any) -> str:
    """A type as people say it, e.g. ``list of whole number or null``."""
    if hint in _SCALARS:
        return _SCALARS[hint][0]
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_in_words(part) for part in parts)
    if origin is Literal:
        return " or ".join(repr(part) for part in parts)
    if origin is tuple:
        if parts[-1] is Ellipsis:
            return f"list of {_in_words(parts[0])}"
        return f"[{', '.join(_in_words(part) for part in parts)}]"
    if origin is not None and issubclass(origin, Mapping):
        return f"mapping of {_in_words(parts[0])} to {_in_words(parts[1])}"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return f"one of {', '.join(str(member.value) for member in hint)}"
    return _name_of(hint)


def _object_schema(cls: type) -> dict[str, Any]:
    """The schema of one dataclass as a mapping of its fields."""
    properties: dict[str, Any] = {}
    required: list[dict[str, Any]] = []
    for declared, hint in _fields_of(cls):
        entry = _field_entry(declared, hint)
        properties[entry.name] = _property(declared, hint, entry)
        keys = [key for key, name in file_keys(cls).items() if name == entry.name]
        for key in keys[1:]:
            meaning = f"{entry.name}, in the unit of this key."
            properties[key] = {"description": meaning, "type": "number"}
        if entry.required:
            any_key = [{"required": [key]} for key in keys]
            required.append(any_key[0] if len(keys) == 1 else {"anyOf": any_key})
    schema: dict[str, Any] = {
        "description": _first_line(cls),
        "type": "object",
        "properties": properties,
    }
    if not _has_file_form(cls):
        schema["additionalProperties"] = False
        schema |= {"allOf": required} if required else {}
    return schema


def _property(
    declared: "dataclasses.Field[Any]", hint: Any, entry: FieldEntry
) -> dict[str, Any]:
    schema: dict[str, Any] = {"description": entry.meaning, **_schema_of(hint)}
    if entry.unit:
        schema["x-unit"] = entry.unit
    for key, (_, keyword) in _BOUNDS.items():
        if declared.metadata.get(key) is not None:
            schema[keyword] = declared.metadata[key]
    if not entry.required:
        schema["default"] = entry.default
    return schema


def _schema_of(hint: Any) -> dict[str, Any]:
    """The schema of one type; types that files cannot hold allow anything."""
    if hint in _SCALARS:
        return {"type": _SCALARS[hint][1]}
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema_of(part) for part in parts]}
    if origin is Literal:
        return {"enum": list(parts)}
    if origin is tuple and parts[-1] is Ellipsis:
        return {"type": "array", "items": _schema_of(parts[0])}
    if origin is tuple:
        forms = [_schema_of(part) for part in parts]
        num = len(forms)
        fixed = {"prefixItems": forms, "minItems": num, "maxItems": num}
        return {"type": "array", **fixed}
    if origin is not None and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _schema_of(parts[1])}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return {"enum": [member.value for member in hint]}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        reference = {"$ref": _reference_to(hint)}
        if not _has_file_form(hint):
            return reference
        return {"anyOf": [{"type": "string"}, reference]}
    return {}


def _has_file_form(cls: type) -> bool:
    """Whether files may say it otherwise than as a mapping of all fields."""
    return hasattr(cls, "from_file_form")


def _reference_to(cls: type) -> str:
    return f"#/$defs/{_name_of(cls)}"


def _name_of(hint: Any) -> str:
    return str(getattr(hint, "__name__", hint)).strip("_")


def _first_line(cls: type) -> str:
    return (cls.__doc__ or "").strip().split("\n")[0]
