"""Described, validated fields for the frozen dataclasses of every package.

A field says its meaning, unit and allowed range once, where it is declared:

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Link:
        bytes_per_s: float = spec("Rate in one direction.", unit="bytes/s", gt=0)

        def __post_init__(self) -> None:
            check_fields(self)

From that one line come the check at construction, the error that names field, value
and range, and the row in the data dictionary (`phaseplan schema`).
"""

import math
import typing
from dataclasses import MISSING, Field, field, fields
from typing import Any

MAX_SHOWN = 200
"""Longest value shown in an error: long enough for a path, short for binary noise."""


class InputError(ValueError):
    """A value from a user cannot be used; the message is one line that says which.

    Parameters
    ----------
    key
        Dotted path of the field, e.g. ``services[0].slo.ttft_ms``.
    value
        What was found.
    expected
        The allowed range or form, e.g. ``a number > 0``.
    file
        The file it came from, with a line number when one is known.
    """

    def __init__(
        self, key: str, value: object, expected: str, *, file: str | None = None
    ) -> None:
        self.key = key
        self.value = value
        self.expected = expected
        self.file = file
        super().__init__(self._message())

    def _message(self) -> str:
        shown = repr(self.value)
        if len(shown) > MAX_SHOWN:
            shown = shown[: MAX_SHOWN - 3] + "..."
        where = f"{self.file}: " if self.file else ""
        subject = f"{self.key} = {shown}" if self.key else shown
        return f"{where}{subject}: expected {self.expected}"

    def within(self, prefix: str) -> "InputError":
        """The same error, seen from the object that holds the field at `prefix`."""
        joint = "" if self.key.startswith("[") or not self.key else "."
        return InputError(
            f"{prefix}{joint}{self.key}", self.value, self.expected, file=self.file
        )

    def in_file(self, file: str) -> "InputError":
        """The same error, with the file it was read from."""
        return InputError(self.key, self.value, self.expected, file=file)


def spec(
    meaning: str,
    *,
    unit: str = "",
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
    default: Any = MISSING,
    default_factory: Any = MISSING,
) -> Any:
    """Declare a dataclass field with its meaning, unit and allowed range.

    `unit` is ``""`` for text and objects, ``"1"`` for pure numbers and fractions.
    """
    metadata = {
        "meaning": meaning,
        "unit": unit,
        "gt": gt,
        "ge": ge,
        "lt": lt,
        "le": le,
    }
    if default is not MISSING:
        return field(default=default, metadata=metadata)
    if default_factory is not MISSING:
        return field(default_factory=default_factory, metadata=metadata)
    return field(metadata=metadata)


def allowed_range(declared: "Field[Any]") -> str:
    """The range of a field in words, e.g. ``a number > 0 and <= 1``."""
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    parts = [
        f"{sign} {declared.metadata[name]:g}"
        for name, sign in signs.items()
        if declared.metadata.get(name) is not None
    ]
    return "a number " + " and ".join(parts) if parts else "a finite number"


def check_fields(instance: Any) -> None:
    """Check every numeric field of a dataclass instance against its declared range.

    A whole number in a field of floats becomes a float: 40 and 40.0 are equal, and
    must be written to files alike.

    Raises
    ------
    InputError
        Naming the first field that is NaN, infinite or out of range.
    """
    for declared in fields(instance):
        value = getattr(instance, declared.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not math.isfinite(value) or not _in_range(value, declared):
            raise InputError(declared.name, value, allowed_range(declared))
        if isinstance(value, int) and _holds_floats(declared.type):
            object.__setattr__(instance, declared.name, float(value))


def _holds_floats(annotation: Any) -> bool:
    kinds = typing.get_args(annotation) or (annotation,)
    return float in kinds and int not in kinds


def _in_range(value: float, declared: "Field[Any]") -> bool:
    low, low_closed = declared.metadata.get("gt"), declared.metadata.get("ge")
    high, high_closed = declared.metadata.get("lt"), declared.metadata.get("le")
    return (
        (low is None or value > low)
        and (low_closed is None or value >= low_closed)
        and (high is None or value < high)
        and (high_closed is None or value <= high_closed)
    )
