"""Numbers are shown with a unit that suits their size."""

import pytest

from planner.cli.tables import quantity


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (80 * 2**30, "bytes", "80 GiB"),
        (819_200, "bytes", "819,200 bytes"),
        (3.35e12, "bytes/s", "3.35 TB/s"),
        (12.5e9, "bytes/s", "12.5 GB/s"),
        (625e6, "bytes/s", "0.625 GB/s"),
        (989.5e12, "FLOP/s", "989.5 TFLOP/s"),
        (12_853_473_280, "parameters", "12.85 B"),
        (27.44705, "usd/h", "27.45 $/h"),
        (145_716.4, "ms", "145,716 ms"),
        (0.002, "ms", "0.002 ms"),
        (8, "1", "8"),
        (True, "", "yes"),
        (None, "usd/h", "-"),
        ("nvswitch", "", "nvswitch"),
    ],
)
def test_quantity_reads_like_a_datasheet(value: object, unit: str, text: str) -> None:
    assert quantity(value, unit) == text
