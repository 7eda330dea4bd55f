"""How busy a unit was, for a report."""

from dataclasses import dataclass

from clusters.fields import spec
from planner.multiplexing.unit_run import UnitResult
from planner.simulator.outcome import ReplicaStats


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitLoad:
    """How busy a unit was."""

    prefill_busy_frac: float = spec("Time in prefill steps.", unit="1", ge=0)
    decode_busy_frac: tuple[float, ...] = spec(
        "Time in decode steps of each LLM.", unit="1"
    )
    kv_peak_frac: tuple[float, ...] = spec(
        "Most of its final quota that each LLM held.", unit="1"
    )
    num_adaptations: int = spec("Times that quotas moved.", unit="1", ge=0)

    @classmethod
    def idle(cls, num_llms: int) -> "UnitLoad":
        """Of a unit that nobody sent anything."""
        return cls(
            prefill_busy_frac=0.0,
            decode_busy_frac=(0.0,) * num_llms,
            kv_peak_frac=(0.0,) * num_llms,
            num_adaptations=0,
        )

    @classmethod
    def of_unit(cls, result: UnitResult) -> "UnitLoad":
        """Of a unit that was simulated with all its LLMs."""
        return cls(
            prefill_busy_frac=result.prefill_busy_frac,
            decode_busy_frac=tuple(result.decode_busy_frac.values()),
            kv_peak_frac=tuple(
                held / result.quota_tokens[name]
                for name, held in result.peak_held_tokens.items()
            ),
            num_adaptations=result.num_adaptations,
        )

    @classmethod
    def of_replica(cls, stats: ReplicaStats) -> "UnitLoad":
        """Of a unit of one phase and one LLM."""
        return cls(
            prefill_busy_frac=stats.prefill_busy_frac,
            decode_busy_frac=(stats.decode_busy_frac,),
            kv_peak_frac=(stats.kv_peak_frac,),
            num_adaptations=0,
        )
