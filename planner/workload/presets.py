"""Length distributions by name: shipped presets, and fixed lengths as ``512x64``."""

import re
from dataclasses import dataclass
from functools import cache

from clusters.fields import check_fields, spec
from planner.presets import check_preset, load_preset, preset_entries
from planner.workload.lengths import FixedLengths, LengthDistribution, LognormalLengths
from planner.workload.lognormal import Lognormal

_CATALOG = "workloads.yaml"
_FIXED = re.compile(r"(\d{1,20})x(\d{1,20})")


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthPreset:
    """A named length distribution with where its numbers come from."""

    meaning: str = spec("What kind of traffic it stands for.")
    input: Lognormal = spec("Prompt length.")
    output: Lognormal = spec("Answer length.")
    correlation: float = spec(
        "Correlation of the two logarithms.", unit="1", ge=-1, le=1, default=0.0
    )
    source: str = spec("Where the numbers come from.")
    date: str = spec("When the source was read, YYYY-MM-DD.")

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def lengths(self) -> LognormalLengths:
        """The distribution itself."""
        return LognormalLengths(
            input=self.input, output=self.output, correlation=self.correlation
        )


@cache
def length_presets() -> dict[str, LengthPreset]:
    """All shipped presets by name."""
    return {
        name: load_preset(LengthPreset, _CATALOG, name)
        for name in preset_entries(_CATALOG)
    }


def named_lengths(name: str) -> LengthDistribution:
    """The preset of that name, or fixed lengths for ``<input>x<output>``.

    Raises
    ------
    InputError
        Naming the nearest preset, or the allowed range of a length.
    """
    if fixed := _FIXED.fullmatch(name):
        return FixedLengths(
            input_tokens=int(fixed.group(1)), output_tokens=int(fixed.group(2))
        )
    presets = length_presets()
    check_preset("lengths", name, presets, "a preset or INPUTxOUTPUT tokens")
    return presets[name].lengths
