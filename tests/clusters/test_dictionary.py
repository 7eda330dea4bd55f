"""The data dictionary says of each field what its declaration says."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, Self

import pytest

from clusters.cluster import Cluster
from clusters.dictionary import dictionary_of, file_keys, json_schema_of
from clusters.fields import spec


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """One wheel."""

    radius_ms: float = spec("How far.", unit="ms", gt=0, le=10_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """Also known by its name."""

    size: int = spec("How big.", unit="1", ge=1)

    @classmethod
    def from_file_form(cls, data: object, *, file: str | None = None) -> Self:
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Cart:
    """A cart with wheels.

    More about it.
    """

    wheels: tuple[Wheel, ...] = spec("Its wheels.")
    spare: Wheel | None = spec("Another one.", default=None)
    colour: Colour = spec("Paint.", default=Colour.RED)
    size: tuple[int, int] = spec("Width and length.", default=(1, 2))
    kind: Literal["cart"] = spec("Tag.", default="cart")
    load_bytes: float = spec("What it carries.", unit="bytes")
    owner: Named = spec("Whose it is.")


def fields_of(name: str) -> dict[str, Any]:
    (entry,) = [entry for entry in dictionary_of(Cart) if entry.name == name]
    return {field.name: field for field in entry.fields}


def test_each_class_appears_once_after_the_one_that_holds_it() -> None:
    entries = dictionary_of(Cart)
    assert [entry.name for entry in entries] == ["Cart", "Wheel", "Named"]
    assert entries[0].meaning == "A cart with wheels."


def test_types_are_said_in_words() -> None:
    assert {name: field.type for name, field in fields_of("Cart").items()} == {
        "wheels": "list of Wheel",
        "spare": "Wheel or null",
        "colour": "one of red, blue",
        "size": "[whole number, whole number]",
        "kind": "'cart'",
        "load_bytes": "number",
        "owner": "Named",
    }


def test_range_unit_and_default_are_those_of_the_declaration() -> None:
    (radius,) = fields_of("Wheel").values()
    assert (radius.unit, radius.range, radius.required) == (
        "ms",
        "> 0, <= 10,000",
        True,
    )
    cart = fields_of("Cart")
    assert (cart["size"].required, cart["size"].default) == (False, [1, 2])
    assert cart["colour"].default == "red"


def test_keys_in_other_units_are_listed() -> None:
    assert fields_of("Cart")["load_bytes"].also == ("load_gib", "load_gb", "load_mib")
    assert file_keys(Wheel) == {
        "radius_ms": "radius_ms",
        "radius_s": "radius_ms",
        "radius_us": "radius_ms",
    }


def test_schema_has_bounds_and_units() -> None:
    radius = json_schema_of(Cart)["$defs"]["Wheel"]["properties"]["radius_ms"]
    assert radius == {
        "description": "How far.",
        "type": "number",
        "x-unit": "ms",
        "exclusiveMinimum": 0,
        "maximum": 10_000,
    }


def test_schema_wants_a_required_number_in_one_of_its_units() -> None:
    cart = json_schema_of(Cart)["$defs"]["Cart"]
    assert cart["additionalProperties"] is False
    assert cart["allOf"] == [
        {"required": ["wheels"]},
        {
            "anyOf": [
                {"required": [f"load_{unit}"]} for unit in ("bytes", "gib", "gb", "mib")
            ]
        },
        {"required": ["owner"]},
    ]


def test_schema_of_nested_forms() -> None:
    properties = json_schema_of(Cart)["$defs"]["Cart"]["properties"]
    wheel = {"$ref": "#/$defs/Wheel"}
    assert properties["wheels"]["items"] == wheel
    assert properties["spare"]["anyOf"] == [wheel, {"type": "null"}]
    assert properties["colour"]["enum"] == ["red", "blue"]
    assert properties["size"]["maxItems"] == 2
    assert properties["kind"]["enum"] == ["cart"]


def test_schema_lets_a_class_with_a_file_form_be_a_name() -> None:
    schema = json_schema_of(Cart)
    owner = schema["$defs"]["Cart"]["properties"]["owner"]
    assert owner["anyOf"] == [{"type": "string"}, {"$ref": "#/$defs/Named"}]
    # Other forms of the mapping are its own business.
    assert "additionalProperties" not in schema["$defs"]["Named"]
    assert "allOf" not in schema["$defs"]["Named"]


@pytest.mark.parametrize("cls", [Cart, Cluster])
def test_every_reference_leads_somewhere(cls: type) -> None:
    schema = json_schema_of(cls)

    def references(part: Any) -> list[str]:
        if isinstance(part, dict):
            own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
            return own + [r for value in part.values() for r in references(value)]
        if isinstance(part, list):
            return [r for value in part for r in references(value)]
        return []

    defined = {f"#/$defs/{name}" for name in schema["$defs"]}
    assert set(references(schema)) == defined


def test_fields_that_files_cannot_give_are_left_out() -> None:
    (cluster, *_) = dictionary_of(Cluster)
    assert [f.name for f in cluster.fields if f.name.startswith("_")] == []
