"""Which units are considered when several LLMs share a cluster."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from clusters.fields import InputError, check_fields, spec
from planner.multiplexing.rate_windows import RateProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitSpace:
    """Which units are considered."""

    sm_shares: tuple[float, ...] = spec(
        "SM shares that prefills and decodes may have.",
        unit="1",
        default=(0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    )
    prefills: tuple[tuple[float, int], ...] = spec(
        "Most of the time that prefills may take, with the prompts of each step.",
        unit="1",
        default=((0.5, 1), (0.85, 1), (0.85, 4)),
    )
    stretches: tuple[float, ...] = spec(
        "Slowdowns of memory-bound parts by each other.",
        unit="1",
        default=(1.0, 1.4, 2.0, 2.8, 4.0),
    )
    cycles: tuple[float, ...] = spec(
        "Cycles of LLMs in turns, as parts of a TPOT limit.",
        unit="1",
        default=(0.15, 0.25, 0.4, 0.6, 0.8, 1.0),
    )
    unlimited_cycle_ms: float = spec(
        "Stands for the TPOT limit where there is none.",
        unit="ms",
        gt=0,
        default=200.0,
    )
    parts: tuple[float, ...] = spec(
        "Parts of an LLM's load, or of what fits a mesh, that a unit may serve.",
        unit="1",
        default=(1.0, 0.75, 0.5, 0.25),
    )
    shares_space: bool = spec("Whether steps may run side by side.", default=True)
    shares_time: bool = spec("Whether LLMs may take turns.", default=True)
    splits_phases: bool = spec(
        "Whether prefills and decodes of an LLM may have GPUs of their own.",
        default=True,
    )
    shares_phases: bool = spec(
        "Whether several LLMs may share a unit of one phase.", default=True
    )
    rates: RateProfile = spec(
        "Rates that units are planned for.", default=RateProfile.OVER_TIME
    )
    max_llms: int | None = spec(
        "Most LLMs of a unit; 1: dedicated GPUs. None: any.",
        unit="LLMs",
        ge=1,
        default=None,
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.prefills:
            raise InputError("prefills", (), "at least one load of prefills")
        if not (self.shares_space or self.shares_time or self.splits_phases):
            form = "true where steps neither run side by side nor take turns"
            raise InputError("splits_phases", False, form)
        for index, stretch in enumerate(self.stretches):
            if not 1 <= stretch < math.inf:
                raise InputError(f"stretches[{index}]", stretch, "a number >= 1")
        for index, (load, prompts) in enumerate(self.prefills):
            if not 0 < load < 1:
                form = "a load > 0 and < 1 of the time"
                raise InputError(f"prefills[{index}][0]", load, form)
            if prompts < 1:
                form = "at least 1 prompt of a step"
                raise InputError(f"prefills[{index}][1]", prompts, form)
        for key in ("sm_shares", "cycles", "parts"):
            for index, value in enumerate(getattr(self, key)):
                if not 0 < value <= 1:
                    form = "a number > 0 and <= 1"
                    raise InputError(f"{key}[{index}]", value, form)
        if self.shares_space and 2 * min(self.sm_shares, default=1.0) > 1:
            form = "shares of which one for prefills and one for decodes add up to 1"
            raise InputError("sm_shares", self.sm_shares, form)

    def cycles_ms(self, limits_ms: Sequence[float | None]) -> list[float]:
        """Cycles of LLMs in turns, for their limits on TPOT; None: no limit."""
        limits = {limit or self.unlimited_cycle_ms for limit in limits_ms}
        return sorted({part * limit for part in self.cycles for limit in limits})
