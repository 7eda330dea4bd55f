"""Strict reading of plain mappings into frozen dataclasses, and the way back.

What a file says must be what the program uses: an unknown key, a wrong type or a number
that is not finite is an error that names the dotted key, the value and the expected
form. Keys may carry a file unit (``nic_gbit_per_s`` for the field ``nic_bytes_per_s``);
the known ones are `clusters.units.FILE_UNITS`.

A dataclass with a shorter form in files (a catalogue name instead of all its fields)
has a classmethod ``from_file_form(data, *, file)`` and a method ``to_file_form()``.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from enum import Enum
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from clusters.fields import InputError
from clusters.units import FILE_UNITS

T = TypeVar("T")


def from_mapping(
    cls: type[T], data: object, *, where: str = "", file: str | None = None
) -> T:
    """Read plain data into `cls`, strictly and recursively.

    Parameters
    ----------
    cls
        A dataclass, or any type that a field may have: numbers, text, ``StrEnum``,
        ``Literal``, ``X | None``, ``tuple[X, ...]``, ``tuple[X, Y]``, ``Mapping``.
    data
        What `clusters.serde` read: mappings, lists, text, numbers, None.
    where
        Dotted key of `data` in its file, put before the key in every error.
    file
        Name of the file, for errors; relative paths in `data` start from its folder.

    Raises
    ------
    InputError
        Naming the first key that cannot be used.
    """
    try:
        return typing.cast("T", _convert(cls, data, file))
    except InputError as error:
        located = _within(error, where) if where else error
        raise (located.in_file(file) if file and not error.file else located) from None


def from_fields(cls: type[T], data: object, *, file: str | None = None) -> T:
    """Read a mapping of all fields of a dataclass, without its shorter file form."""
    target: Any = cls
    declared = _declared(target)
    hints = _hints(target)
    if not isinstance(data, Mapping):
        raise InputError("", data, f"a mapping with the keys {_listed(declared)}")
    values: dict[str, object] = {}
    spelled: dict[str, tuple[str, object]] = {}
    for key, value in data.items():
        name, number = _field_of(cls, key, value)
        spelled[name] = (str(key), value)
        if name in values:
            raise InputError(str(key), value, f"{name!r} to be given once, in one unit")
        values[name] = _under(
            name if number is value else key, hints, name, number, file
        )
    for name, field in declared.items():
        required = (
            field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        )
        if required and name not in values:
            meaning = field.metadata.get("meaning", "no default")
            raise InputError(name, None, f"a value, the key is required: {meaning}")
    try:
        return cls(**values)
    except InputError as error:
        key, value = spelled.get(error.key, (error.key, error.value))
        if key == error.key:
            raise
        form = f"{error.key} to be {error.expected}"
        raise InputError(key, value, form) from None


def to_mapping(value: Any) -> Any:
    """Plain data (dict, list, text, numbers), equal again after `from_mapping`."""
    if hasattr(value, "to_file_form"):
        return value.to_file_form()
    return fields_to_mapping(value)


def fields_to_mapping(value: Any) -> Any:
    """Plain data with every field, without the shorter file form of `value` itself."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = _declared(type(value))
        return {name: to_mapping(getattr(value, name)) for name in names}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(to_mapping(key)): to_mapping(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_mapping(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"no file form for {type(value).__name__}")


def nearest(name: object, known: Iterable[str], *, others: Iterable[str] = ()) -> str:
    """A hint that names the known word closest to `name`, or lists a few of them.

    Words of `others` are named only when no known one is close.
    """
    words = list(known)
    close = difflib.get_close_matches(str(name), words, n=1, cutoff=0.5)
    close = close or difflib.get_close_matches(str(name), list(others), n=1, cutoff=0.5)
    return f"nearest is {close[0]!r}" if close else f"known: {_listed(words)}"


def _convert(target: Any, value: object, file: str | None) -> object:
    """`value` as the type `target`; one branch a kind of type."""
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError("", value, "a finite number")
    origin = get_origin(target)
    if target is Any or target is object:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(get_args(target), value, file)
    if origin is Literal:
        return _one_of(value, get_args(target))
    if origin is tuple:
        return _convert_tuple(get_args(target), value, file)
    if origin is not None and issubclass(origin, Mapping):
        return _convert_dict(get_args(target), value, file)
    if not isinstance(target, type):
        raise TypeError(f"a field of type {target} cannot be read from a file")
    if hasattr(target, "from_file_form"):
        return target.from_file_form(value, file=file)
    if dataclasses.is_dataclass(target):
        return from_fields(target, value, file=file)
    if issubclass(target, Enum):
        return target(_one_of(value, tuple(member.value for member in target)))
    return _convert_scalar(target, value)


def _convert_scalar(target: type, value: object) -> object:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if target is float and is_number:
        return float(typing.cast("float", value))
    if target is int and is_number and float(typing.cast("float", value)).is_integer():
        return int(typing.cast("float", value))
    if target in (bool, str) and isinstance(value, target):
        return value
    if target is types.NoneType and value is None:
        return None
    names = {float: "a number", int: "a whole number", str: "text", bool: "true/false"}
    raise InputError("", value, names.get(target, "nothing (null)"))


def _convert_union(members: tuple[Any, ...], value: object, file: str | None) -> object:
    if value is None and types.NoneType in members:
        return None
    others = [member for member in members if member is not types.NoneType]
    tagged = [member for member in others if _has_tag(member, value)]
    if len(tagged) == 1:
        return _convert(tagged[0], value, file)
    errors: list[InputError] = []
    for member in others:
        try:
            return _convert(member, value, file)
        except InputError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    forms = sorted({e.expected for e in errors if not e.key} or {"another form"})
    raise InputError("", value, " or ".join(forms))


def _has_tag(member: Any, value: object) -> bool:
    """Whether `value` names the dataclass `member` by a Literal field, e.g. `kind`."""
    if not (dataclasses.is_dataclass(member) and isinstance(value, Mapping)):
        return False
    return any(
        get_origin(hint) is Literal and value.get(name) in get_args(hint)
        for name, hint in _hints(typing.cast("type", member)).items()
    )


def _convert_tuple(members: tuple[Any, ...], value: object, file: str | None) -> object:
    if not isinstance(value, list | tuple):
        raise InputError("", value, "a list")
    if len(members) == 2 and members[1] is Ellipsis:
        members = (members[0],) * len(value)
    if len(value) != len(members):
        raise InputError("", value, f"a list of {len(members)} entries")
    converted = []
    for index, (member, item) in enumerate(zip(members, value, strict=True)):
        try:
            converted.append(_convert(member, item, file))
        except InputError as error:
            raise _within(error, f"[{index}]") from None
    return tuple(converted)


def _convert_dict(members: tuple[Any, ...], value: object, file: str | None) -> object:
    if not isinstance(value, Mapping):
        raise InputError("", value, "a mapping")
    converted = {}
    for key, item in value.items():
        try:
            converted[_convert(members[0], key, file)] = _convert(
                members[1], item, file
            )
        except InputError as error:
            raise _within(error, str(key)) from None
    return converted


def _one_of(value: object, allowed: tuple[Any, ...]) -> object:
    for member in allowed:
        if value == member and isinstance(value, bool) == isinstance(member, bool):
            return member
    hint = nearest(value, [str(member) for member in allowed])
    raise InputError("", value, f"one of {_listed(allowed)} ({hint})")


def _under(
    key: object, hints: dict[str, Any], name: str, value: object, file: str | None
) -> object:
    """Convert one field; errors are seen from the key that the file used."""
    if key != name and hints[name] in (int, int | None):
        value = round(typing.cast("float", value))
    try:
        return _convert(hints[name], value, file)
    except InputError as error:
        raise _within(error, str(key)) from None


def _field_of(cls: type, key: object, value: object) -> tuple[str, object]:
    """The field that a key of a file fills, and the value in the field's unit."""
    declared = _declared(cls)
    if key in declared:
        return str(key), value
    aliases = _aliases(cls)
    if key not in aliases:
        hint = nearest(key, declared, others=aliases)
        raise InputError(str(key), value, f"a known key ({hint})")
    name, to_our_unit = aliases[str(key)]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(typing.cast("float", value)):
        raise InputError(str(key), value, "a finite number")
    return name, to_our_unit(typing.cast("float", value))


def _within(error: InputError, prefix: str) -> InputError:
    """The error seen from `prefix`, unless it is about another file."""
    return error if error.file else error.within(prefix)


@cache
def _declared(cls: Any) -> dict[str, "dataclasses.Field[Any]"]:
    return {field.name: field for field in dataclasses.fields(cls) if field.init}


@cache
def _hints(cls: Any) -> dict[str, Any]:
    return {name: typing.get_type_hints(cls)[name] for name in _declared(cls)}


@cache
def _aliases(cls: Any) -> dict[str, tuple[str, Any]]:
    """Keys with a file unit: ``{"nic_gbit_per_s": ("nic_bytes_per_s", convert)}``."""
    found = {}
    for name in _declared(cls):
        for ours, theirs in FILE_UNITS.items():
            if name != ours and not name.endswith(f"_{ours}"):
                continue
            for suffix, convert in theirs.items():
                alias = name.removesuffix(ours) + suffix
                if alias not in _declared(cls):
                    found[alias] = (name, convert)
    return found


def _listed(words: Iterable[object], most: int = 12) -> str:
    shown = [str(word) for word in words]
    return ", ".join(shown[:most]) + (", ..." if len(shown) > most else "")
