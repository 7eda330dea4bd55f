"""Length presets: all usable, with sources, close to what they were fitted to."""

import pytest

from clusters.fields import InputError
from planner.workload.lengths import FixedLengths
from planner.workload.presets import length_presets, named_lengths

PRESETS = length_presets()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_a_source_and_its_date(name: str) -> None:
    assert len(PRESETS[name].source) > 20
    assert len(PRESETS[name].date) == len("2026-11-21")


@pytest.mark.parametrize(
    ("name", "mean_input", "mean_output"),
    [
        # Azure 2023: means of the recorded traces.
        ("azure-conversation-like", 1155, 211),
        ("azure-code-like", 2048, 27.9),
        # DistServe (OSDI 2024), Figure 7.
        ("sharegpt-like", 755.5, 200.3),
        ("longbench-like", 1738.3, 90.7),
        ("humaneval-like", 171.3, 98.2),
    ],
)
def test_means_after_clipping_are_the_published_ones(
    name: str, mean_input: float, mean_output: float
) -> None:
    lengths = named_lengths(name)
    assert lengths.mean_input_tokens == pytest.approx(mean_input, rel=0.03)
    assert lengths.mean_output_tokens == pytest.approx(mean_output, rel=0.03)


def test_a_second_name_is_the_same_distribution() -> None:
    assert named_lengths("chat") == named_lengths("azure-conversation-like")


def test_two_numbers_are_fixed_lengths() -> None:
    assert named_lengths("512x64") == FixedLengths(input_tokens=512, output_tokens=64)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError) as caught:
        named_lengths("sharegpt")
    assert "lengths = 'sharegpt': expected a preset or INPUTxOUTPUT" in str(
        caught.value
    )
    assert "nearest is 'sharegpt-like'" in str(caught.value)


def test_fixed_lengths_of_zero_are_refused() -> None:
    with pytest.raises(InputError, match="input_tokens = 0"):
        named_lengths("0x64")
