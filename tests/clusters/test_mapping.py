"""Strict reading of mappings into dataclasses."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusters.fields import InputError, check_fields, spec
from clusters.mapping import from_mapping, nearest, to_mapping


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    rate_bytes_per_s: float = spec("Rate.", unit="bytes/s", gt=0)
    size_bytes: int = spec("Size.", unit="bytes", ge=0, default=0)
    delay_ms: float | None = spec("Delay.", unit="ms", default=None)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bus:
    kind: Literal["bus"] = spec("Tag.", default="bus")
    num_seats: int = spec("Seats.", unit="1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bike:
    kind: Literal["bike"] = spec("Tag.", default="bike")
    num_gears: int = spec("Gears.", unit="1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    wheels: tuple[Wheel, ...] = spec("Wheels.", default=())
    pair: tuple[int, str] | None = spec("A pair.", default=None)
    colour: Colour = spec("Colour.", default=Colour.RED)
    by_name: Mapping[str, float] = spec("Numbers.", default_factory=dict)
    is_new: bool = spec("New.", default=False)
    vehicle: Bus | Bike | None = spec("One of two.", default=None)


def test_nested_values_become_frozen_dataclasses_and_tuples() -> None:
    fleet = from_mapping(
        Fleet,
        {
            "wheels": [{"rate_bytes_per_s": 3}],
            "pair": [1, "a"],
            "colour": "blue",
            "by_name": {"x": 2},
            "vehicle": {"kind": "bike", "num_gears": 7},
        },
    )
    assert fleet.wheels == (Wheel(rate_bytes_per_s=3.0),)
    assert fleet.pair == (1, "a")
    assert fleet.colour is Colour.BLUE
    assert fleet.by_name == {"x": 2.0}
    assert fleet.vehicle == Bike(num_gears=7)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("rate_gb_per_s", 2, 2e9),
        ("rate_gbit_per_s", 8, 1e9),  # 8 Gbit are 1 GB
        ("rate_bytes_per_s", 5, 5.0),
    ],
)
def test_a_key_may_carry_a_file_unit(key: str, value: int, expected: float) -> None:
    assert from_mapping(Wheel, {key: value}).rate_bytes_per_s == expected


def test_a_size_in_a_file_unit_is_a_whole_number_of_bytes() -> None:
    wheel = from_mapping(Wheel, {"rate_bytes_per_s": 1, "size_gib": 1.5, "delay_s": 2})
    assert wheel.size_bytes == 1_610_612_736  # 1.5 * 2**30
    assert isinstance(wheel.size_bytes, int)
    assert wheel.delay_ms == 2000.0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"wheels": [{"rate_byte_per_s": 1}]},
            "f.yaml: wheels[0].rate_byte_per_s = 1: expected a known key "
            "(nearest is 'rate_bytes_per_s')",
        ),
        ({"wheels": [{}]}, "wheels[0].rate_bytes_per_s = None: expected a value"),
        ({"wheels": {}}, "wheels = {}: expected a list"),
        ({"pair": [1]}, "pair = [1]: expected a list of 2 entries"),
        ({"pair": [True, "a"]}, "pair[0] = True: expected a whole number"),
        ({"pair": [1.5, "a"]}, "pair[0] = 1.5: expected a whole number"),
        ({"colour": "rad"}, "colour = 'rad': expected one of red, blue (nearest"),
        ({"by_name": {"x": "y"}}, "by_name.x = 'y': expected a number"),
        ({"by_name": {"x": float("nan")}}, "by_name.x = nan: expected a finite number"),
        ({"is_new": 1}, "is_new = 1: expected true/false"),
        ([], "f.yaml: []: expected a mapping with the keys wheels"),
        (
            {"wheels": [{"rate_gb_per_s": 0}]},
            "wheels[0].rate_gb_per_s = 0: expected rate_bytes_per_s to be a number > 0",
        ),
        (
            {"wheels": [{"rate_gb_per_s": float("inf")}]},
            "wheels[0].rate_gb_per_s = inf: expected a finite number",
        ),
        (
            {"wheels": [{"rate_gb_per_s": 1, "rate_gbit_per_s": 8}]},
            "wheels[0].rate_gbit_per_s = 8: expected 'rate_bytes_per_s' to be given "
            "once, in one unit",
        ),
    ],
)
def test_bad_data_is_one_line_with_file_key_value_and_form(
    data: object, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        from_mapping(Fleet, data, file="f.yaml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("f.yaml: ")
    assert "\n" not in str(caught.value)


def test_errors_start_from_the_given_key() -> None:
    with pytest.raises(InputError, match=r"^services\[0\]\.pair\[1\] = 2: expected"):
        from_mapping(Fleet, {"pair": [1, 2]}, where="services[0]")


def test_nearest_lists_what_is_known_when_nothing_is_close() -> None:
    assert nearest("rde", ["red", "blue"]) == "nearest is 'red'"
    assert nearest("zzz", ["red", "blue"]) == "known: red, blue"


def test_values_without_a_file_form_are_refused() -> None:
    with pytest.raises(TypeError, match="no file form for object"):
        to_mapping({"a": object()})


numbers = st.floats(min_value=1e-3, max_value=1e15)
wheels = st.builds(
    Wheel,
    rate_bytes_per_s=numbers,
    size_bytes=st.integers(0, 10**15),
    delay_ms=st.none() | numbers,
)


@settings(deadline=None)
@given(
    st.builds(
        Fleet,
        wheels=st.lists(wheels, max_size=3).map(tuple),
        pair=st.none() | st.tuples(st.integers(), st.text()),
        colour=st.sampled_from(Colour),
        by_name=st.dictionaries(st.text(), numbers, max_size=3),
        vehicle=st.none() | st.builds(Bus, num_seats=st.integers()),
    )
)
def test_a_value_is_equal_after_writing_and_reading(fleet: Fleet) -> None:
    assert from_mapping(Fleet, to_mapping(fleet)) == fleet
