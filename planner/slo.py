"""Slo: the latency objectives of a service, and how a simulation is held to them."""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from clusters.fields import InputError, check_fields, spec
from planner.simulator.build import StopLimits
from planner.simulator.outcome import METRICS, SimulationResult

_ROUNDING = 1e-9
"""Keeps 0.9 * 300 from allowing one miss fewer than 30."""


class SloRule(StrEnum):
    """What must hold for the share `attainment_frac` of the requests."""

    JOINT = "joint"
    """That many requests meet every limit at once (goodput as DistServe defines it)."""
    EACH = "each"
    """Each limit alone is met by that many requests: percentiles, one a metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """Limits on time to first token, time per output token and end-to-end time.

    Without any limit given, those of interactive chat hold: TTFT 2 s, TPOT 30 ms (the
    defaults of NVIDIA Dynamo's deployment requests).
    """

    ttft_ms: float | None = spec(
        "Limit on time to first token.", unit="ms", gt=0, default=None
    )
    tpot_ms: float | None = spec(
        "Limit on the mean time per output token.", unit="ms", gt=0, default=None
    )
    e2e_ms: float | None = spec(
        "Limit on end-to-end time.", unit="ms", gt=0, default=None
    )
    attainment_frac: float = spec(
        "Share of requests that must be good.", unit="1", gt=0, le=1, default=0.9
    )
    rule: SloRule = spec("Limits together or each alone.", default=SloRule.JOINT)

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.limits_ms:
            object.__setattr__(self, "ttft_ms", 2000.0)
            object.__setattr__(self, "tpot_ms", 30.0)

    @property
    def limits_ms(self) -> dict[str, float]:
        """Limit of each limited metric, in ms."""
        limits = {metric: getattr(self, f"{metric}_ms") for metric in METRICS}
        return {metric: limit for metric, limit in limits.items() if limit is not None}

    def only(self, *metrics: str) -> "Slo | None":
        """The limits on these metrics alone; None when none of them is limited."""
        kept = {f"{m}_ms": v for m, v in self.limits_ms.items() if m in metrics}
        if not kept:
            return None
        return Slo(attainment_frac=self.attainment_frac, rule=self.rule, **kept)

    def scaled(self, factor: float) -> "Slo":
        """Every limit multiplied by `factor` (> 1 is looser)."""
        limits = {f"{m}_ms": v * factor for m, v in self.limits_ms.items()}
        return Slo(attainment_frac=self.attainment_frac, rule=self.rule, **limits)

    def max_misses(self, num_requests: int) -> int:
        """How many of `num_requests` may miss."""
        return math.floor((1.0 - self.attainment_frac) * num_requests + _ROUNDING)

    def stop_limits(self, num_requests: int) -> StopLimits:
        """Limits for a simulation that need only tell whether the SLO is met."""
        return StopLimits(
            ttft_ms=self.ttft_ms,
            tpot_ms=self.tpot_ms,
            e2e_ms=self.e2e_ms,
            max_misses=self.max_misses(num_requests),
            is_joint=self.rule is SloRule.JOINT,
        )

    def judge(self, result: SimulationResult) -> "Attainment":
        """Shares of requests within the limits, and whether the SLO is met.

        Raises
        ------
        InputError
            If the simulation was stopped early: its shares would mean nothing.
        """
        if not result.is_complete:
            raise InputError("result", "stopped early", "a complete simulation")
        limits = self.limits_ms
        each = {
            m: float(result.meets({m: limit}).mean()) for m, limit in limits.items()
        }
        joint = float(result.meets(limits).mean())
        needed = self.attainment_frac - _ROUNDING
        binding = min(each.values()) if self.rule is SloRule.EACH else joint
        return Attainment(
            joint_frac=joint,
            ttft_frac=each.get("ttft"),
            tpot_frac=each.get("tpot"),
            e2e_frac=each.get("e2e"),
            is_met=bool(binding >= needed),
        )

    def binding_frac(self, attainment: "Attainment") -> float:
        """The share that decides: all limits together, or the worst limit alone."""
        if self.rule is SloRule.JOINT:
            return attainment.joint_frac
        each = (attainment.ttft_frac, attainment.tpot_frac, attainment.e2e_frac)
        return min(share for share in each if share is not None)

    def describe(self) -> str:
        """E.g. ``TTFT <= 400 ms, TPOT <= 40 ms for 90 % of requests (joint)``."""
        parts = [f"{m.upper()} <= {limit:g} ms" for m, limit in self.limits_ms.items()]
        share = f"{100 * self.attainment_frac:g} %"
        return f"{', '.join(parts)} for {share} of requests ({self.rule})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attainment:
    """Shares of requests within the limits of an SLO."""

    joint_frac: float = spec("Requests within every limit.", unit="1", ge=0, le=1)
    ttft_frac: float | None = spec("Within the TTFT limit.", unit="1", default=None)
    tpot_frac: float | None = spec("Within the TPOT limit.", unit="1", default=None)
    e2e_frac: float | None = spec("Within the E2E limit.", unit="1", default=None)
    is_met: bool = spec("Whether the SLO is met.")

    def __post_init__(self) -> None:
        check_fields(self)


def margin_ms(slo: Slo, result: SimulationResult) -> dict[str, float]:
    """Room under each limit at the percentile of the SLO, in ms (negative: missed)."""
    percent = 100.0 * slo.attainment_frac
    return {
        metric: limit - result.percentile_ms(metric, percent)
        for metric, limit in slo.limits_ms.items()
        if np.isfinite(result.percentile_ms(metric, percent))
    }
