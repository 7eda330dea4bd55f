"""The catalogue lists everything and gives every number its unit and source."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.cli.catalog import Kind
from planner.cli.catalog_rows import names_of

KINDS = [kind.value for kind in Kind]


@pytest.mark.parametrize("kind", KINDS)
def test_list_has_a_row_for_every_entry(
    kind: str, phaseplan: Callable[..., Any]
) -> None:
    ended = phaseplan("catalog", "list", kind, "--format", "json")
    rows = json.loads(ended.stdout)[kind]
    assert [row["name"] for row in rows] == list(names_of(kind))


def test_list_without_a_kind_has_all_kinds(phaseplan: Callable[..., Any]) -> None:
    ended = phaseplan("catalog", "list", "--format", "yaml")
    assert list(yaml.safe_load(ended.stdout)) == KINDS


def test_tables_fit_in_a_hundred_columns(phaseplan: Callable[..., Any]) -> None:
    ended = phaseplan("catalog", "list")
    assert ended.code == 0
    assert max(len(line) for line in ended.stdout.splitlines()) <= 100


def test_gpu_has_the_numbers_of_its_datasheet(phaseplan: Callable[..., Any]) -> None:
    (row,) = [
        row
        for row in json.loads(
            phaseplan("catalog", "list", "gpus", "--format", "json").stdout
        )["gpus"]
        if row["name"] == "l4"
    ]
    assert row["memory_bytes_per_s"] == 300e9
    assert row["fp8_flops_per_s"] == 242.5e12
    assert row["nvlink_bytes_per_s"] is None


@pytest.mark.parametrize("kind", KINDS)
def test_every_fact_of_every_entry_has_a_source(
    kind: str, phaseplan: Callable[..., Any]
) -> None:
    for name in names_of(kind):
        ended = phaseplan("catalog", "show", f"{kind}/{name}", "--format", "json")
        facts = json.loads(ended.stdout)["facts"]
        assert facts
        assert [f for f in facts if f["source"] in ("", "nobody said")] == []


def test_numbers_of_a_gpu_have_unit_source_and_date(
    phaseplan: Callable[..., Any],
) -> None:
    ended = phaseplan("catalog", "show", "h100_sxm", "--format", "json")
    data = json.loads(ended.stdout)
    facts = {fact["name"]: fact for fact in data["facts"]}
    assert data["kind"] == "gpus"
    assert facts["flops.bf16"]["value"] == 989.5e12
    assert facts["flops.bf16"]["unit"] == "FLOP/s"
    assert facts["flops.bf16"]["date"] == "2023-03"
    # The memory has a source of its own.
    assert facts["memory_bytes"]["source"].startswith("nvidia-smi memory.total")


def test_default_is_not_credited_to_the_source_of_the_entry(
    phaseplan: Callable[..., Any],
) -> None:
    ended = phaseplan("catalog", "show", "p5.48xlarge", "--format", "json")
    facts = {fact["name"]: fact for fact in json.loads(ended.stdout)["facts"]}
    # The file gives NICs in Gbit/s, and no latency.
    assert facts["nic_bytes_per_s"]["source"] != "default of phaseplan"
    assert facts["nic_latency_ms"]["source"] == "default of phaseplan"


def test_llm_has_its_sizes(phaseplan: Callable[..., Any]) -> None:
    ended = phaseplan("catalog", "show", "opt-13b", "--format", "json")
    facts = {fact["name"]: fact["value"] for fact in json.loads(ended.stdout)["facts"]}
    # 40 layers x K and V x 5120 x 2 bytes.
    assert facts["kv_bytes_per_token"] == 40 * 2 * 5120 * 2
    # 12 h^2 a layer, and tables of 50272 tokens and 2048 positions (published: 13 B).
    assert facts["parameters"] == 40 * 12 * 5120**2 + (50272 + 2048) * 5120
    assert facts["weights_bytes"] == 2 * facts["parameters"]


def test_sliding_windows_are_summed_up(phaseplan: Callable[..., Any]) -> None:
    ended = phaseplan("catalog", "show", "gpt-oss-20b", "--format", "json")
    facts = {fact["name"]: fact["value"] for fact in json.loads(ended.stdout)["facts"]}
    # Every other of 24 layers; those add no KV once full.
    assert facts["windows.128_tokens"] == 12
    assert facts["kv_bytes_per_token_long"] * 2 == facts["kv_bytes_per_token"]


def test_table_shows_the_numbers_and_their_sources(
    phaseplan: Callable[..., Any],
) -> None:
    ended = phaseplan("catalog", "show", "l4")
    lines = ended.stdout.splitlines()
    assert lines[0] == "l4 (gpus)"
    assert any(
        line.startswith("memory_bytes_per_s") and "300 GB/s" in line for line in lines
    )
    notes = lines[lines.index("sources") + 1 :]
    assert notes[0].startswith("[1]   NVIDIA L4")
    assert max(len(line) for line in lines) <= 100


def test_name_of_two_kinds_must_be_told_apart(phaseplan: Callable[..., Any]) -> None:
    ended = phaseplan("catalog", "show", "gb200_nvl72")
    assert ended.code == 2
    assert ended.stderr == (
        "error: 'gb200_nvl72': expected one of the two: "
        "instances/gb200_nvl72 or clusters/gb200_nvl72\n"
    )
    ended = phaseplan("catalog", "show", "clusters/gb200_nvl72", "--format", "json")
    assert json.loads(ended.stdout)["kind"] == "clusters"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("opt-13", "nearest is 'opt-13b'"),
        ("a100_sxn", "nearest is 'a100_sxm'"),
        ("gpus/h100", "nearest is 'h100_sxm'"),
    ],
)
def test_unknown_name_gets_the_nearest(
    name: str, hint: str, phaseplan: Callable[..., Any]
) -> None:
    ended = phaseplan("catalog", "show", name)
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr == (
        f"error: {name!r}: expected a name in the catalogue ({hint})\n"
    )


def test_output_goes_to_the_file_alone(
    tmp_path: Path, phaseplan: Callable[..., Any]
) -> None:
    path = tmp_path / "gpus.json"
    ended = phaseplan("catalog", "list", "gpus", "-o", path)
    assert (ended.code, ended.stdout) == (0, "")
    assert json.loads(path.read_text("utf-8"))["gpus"]


def test_output_in_a_missing_folder_is_refused(
    tmp_path: Path, phaseplan: Callable[..., Any]
) -> None:
    path = tmp_path / "gone" / "x.json"
    ended = phaseplan("catalog", "list", "-o", path)
    assert ended.code == 2
    assert ended.stderr == (
        f"error: --output = '{path}': expected a file in an existing folder\n"
    )
