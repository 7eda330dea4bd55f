"""The data dictionary of every documented file can be printed in every form."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from clusters.dictionary import dictionary_of
from planner.cli.schema import DOCUMENTED, documented_class


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_field_of_a_file_has_a_meaning(name: str) -> None:
    fields = [
        field
        for entry in dictionary_of(documented_class(name))
        for field in entry.fields
    ]
    assert [f.name for f in fields if not f.meaning] == []


@pytest.mark.parametrize("form", ["json", "jsonschema"])
def test_all_files_are_documented_without_a_name(
    form: str, phaseplan: Callable[..., Any]
) -> None:
    ended = phaseplan("schema", "--format", form)
    assert ended.code == 0
    assert list(json.loads(ended.stdout)) == list(DOCUMENTED)


def test_row_says_form_unit_default_range_and_meaning(
    phaseplan: Callable[..., Any],
) -> None:
    ended = phaseplan("schema", "gpu", "--format", "json")
    (gpu, *_) = json.loads(ended.stdout)["gpu"]
    (row,) = [row for row in gpu["fields"] if row["name"] == "memory_bytes_per_s"]
    assert row == {
        "name": "memory_bytes_per_s",
        "type": "number",
        "unit": "bytes/s",
        "required": True,
        "default": None,
        "range": "> 0",
        "meaning": "Peak memory rate.",
        "also": ["memory_gb_per_s", "memory_gbit_per_s"],
    }


def test_json_schema_of_one_file_stands_alone(phaseplan: Callable[..., Any]) -> None:
    ended = phaseplan("schema", "cluster", "--format", "jsonschema")
    schema = json.loads(ended.stdout)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$ref"].removeprefix("#/$defs/") in schema["$defs"]


def test_tables_fit_in_a_hundred_columns(phaseplan: Callable[..., Any]) -> None:
    lines = phaseplan("schema").stdout.splitlines()
    assert max(len(line) for line in lines) <= 100
    assert any(line.startswith("gpus_per_pcie_switch ") for line in lines)


def test_unknown_file_lists_the_known(phaseplan: Callable[..., Any]) -> None:
    ended = phaseplan("schema", "clutser")
    assert ended.code == 2
    assert ended.stderr == (
        "error: 'clutser': expected a documented file (nearest is 'cluster')\n"
    )
