"""Described fields: what a declaration checks, and what its error says."""

from dataclasses import dataclass

import pytest

from clusters.fields import MAX_SHOWN, InputError, check_fields, spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    bytes_per_s: float = spec("Rate.", unit="bytes/s", gt=0)
    latency_ms: float | None = spec("Latency.", unit="ms", ge=0, default=None)
    num_lanes: int = spec("Lanes.", unit="1", ge=1, le=16, default=1)

    def __post_init__(self) -> None:
        check_fields(self)


def test_whole_numbers_of_float_fields_become_floats():
    link = Link(bytes_per_s=5, latency_ms=2, num_lanes=4)
    assert [type(v) for v in (link.bytes_per_s, link.latency_ms, link.num_lanes)] == [
        float,
        float,
        int,
    ]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"bytes_per_s": 0}, "bytes_per_s = 0: expected a number > 0"),
        ({"bytes_per_s": float("nan")}, "bytes_per_s = nan: expected a number > 0"),
        ({"latency_ms": -1.0}, "latency_ms = -1.0: expected a number >= 0"),
        ({"num_lanes": 17}, "num_lanes = 17: expected a number >= 1 and <= 16"),
    ],
)
def test_a_bad_value_names_field_value_and_range(bad, message):
    with pytest.raises(InputError) as error:
        Link(**{"bytes_per_s": 1.0, **bad})
    assert str(error.value) == message


def test_an_error_is_seen_from_the_object_and_the_file():
    error = InputError("rate_rps", 0, "a number > 0").within("services[0]")
    assert error.in_file("a.yaml:3").args == (
        "a.yaml:3: services[0].rate_rps = 0: expected a number > 0",
    )
    assert InputError("[1]", 0, "x").within("tp").key == "tp[1]"


def test_long_values_are_cut():
    assert len(str(InputError("key", "x" * 1000, "less"))) < MAX_SHOWN + 30
