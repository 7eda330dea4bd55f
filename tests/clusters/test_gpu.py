"""GPU types and the numbers of the catalogue."""

import dataclasses

import pytest

from clusters.fields import InputError
from clusters.gpu import GpuType
from clusters.mapping import from_mapping, to_mapping
from tests.clusters.tiny_clusters import GB, make_tiny_gpu

# Dense FLOP/s, memory rate and one direction of NVLink, from the vendors' datasheets;
# pages often print twice of them (sparsity, both directions).
PUBLISHED = {
    "v100_sxm": ("fp16", 125e12, 900, 150),
    "t4": ("fp16", 65e12, 320, 0),
    "a10g": ("bf16", 70e12, 600, 0),
    "a100_sxm": ("bf16", 312e12, 2039, 300),
    "a100_sxm_40gb": ("bf16", 312e12, 1555, 300),
    "a100_pcie": ("bf16", 312e12, 1935, 300),
    "a100_pcie_40gb": ("bf16", 312e12, 1555, 300),
    "a6000": ("bf16", 154.8e12, 768, 56.25),
    "l4": ("fp8", 242.5e12, 300, 0),
    "l40s": ("fp8", 733e12, 864, 0),
    "h100_pcie": ("bf16", 756e12, 2039, 300),
    "h100_sxm": ("fp8", 1979e12, 3350, 450),
    "h200_sxm": ("bf16", 989.5e12, 4800, 450),
    "h20": ("bf16", 148e12, 4000, 450),
    "b200_sxm": ("fp4", 9000e12, 8000, 900),
    "b300_sxm": ("bf16", 2250e12, 8000, 900),
    "gb200": ("fp8", 5000e12, 8000, 900),
    "gb300": ("fp4", 15000e12, 8000, 900),
    "rtx_pro_6000_server": ("fp8", 935.6e12, 1792, 0),
    "b60": ("bf16", 98.3e12, 456, 0),
    "mi300x": ("bf16", 1307.4e12, 5300, 448),
    "mi325x": ("fp8", 2614.9e12, 6000, 448),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_rates_are_dense_and_of_one_direction(name: str) -> None:
    dtype, flops_per_s, memory_gb_per_s, nvlink_gb_per_s = PUBLISHED[name]
    gpu = GpuType.load(name)
    assert gpu.flops_per_s(dtype) == pytest.approx(flops_per_s)
    assert gpu.memory_bytes_per_s == memory_gb_per_s * GB
    assert gpu.nvlink_bytes_per_s == nvlink_gb_per_s * GB


def test_memory_is_what_the_driver_reports() -> None:
    assert GpuType.load("a100_sxm").memory_bytes == 80 * 2**30  # 81920 MiB
    assert GpuType.load("h100_sxm").memory_bytes == 81_559 * 2**20  # below 80 GiB
    assert GpuType.load("mi300x").memory_bytes == 206_141_652_992


@pytest.mark.parametrize("name", GpuType.names())
def test_every_number_of_the_catalogue_has_a_source_and_date(name: str) -> None:
    gpu = GpuType.load(name)
    numeric = [f.name for f in dataclasses.fields(gpu) if f.type in (int, float)]
    for field in [*numeric, "flops"]:
        source = gpu.source_of(field)
        assert source is not None, field
        assert source.source
        assert source.date[:2] == "20"


@pytest.mark.parametrize("name", GpuType.names())
def test_catalogue_entries_are_equal_after_writing_and_reading(name: str) -> None:
    gpu = GpuType.load(name)
    assert to_mapping(gpu) == name
    assert from_mapping(GpuType, name) == gpu


def test_a_gpu_of_ones_own_is_written_with_all_fields() -> None:
    gpu = make_tiny_gpu(nvlink_gb_per_s=3)
    assert to_mapping(gpu)["nvlink_bytes_per_s"] == 3 * GB
    assert from_mapping(GpuType, to_mapping(gpu)) == gpu


def test_a_changed_catalogue_entry_is_not_mistaken_for_the_original() -> None:
    gpu = dataclasses.replace(GpuType.load("l4"), tdp_w=60)
    assert from_mapping(GpuType, to_mapping(gpu)) == gpu


def test_a_format_without_units_is_refused() -> None:
    with pytest.raises(InputError, match="dtype = 'fp8': expected a native format of"):
        GpuType.load("a100_sxm").flops_per_s("fp8")


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(InputError, match=r"'h100_smx': .*nearest is 'h100_sxm'"):
        GpuType.load("h100_smx")


def test_a_source_must_name_fields_that_exist() -> None:
    data = {**to_mapping(make_tiny_gpu())}
    data["sources"] = [{"source": "s", "date": "2024", "fields": ["memory_byte"]}]
    with pytest.raises(InputError, match="nearest is 'memory_bytes'"):
        from_mapping(GpuType, data)
