"""A unit: LLMs that share the GPUs of one mesh, with SM shares and KV quotas."""

from dataclasses import dataclass

from clusters.fields import InputError, check_fields, spec
from planner.multiplexing.meshes import MeshKind
from planner.simulator.system import Phase

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitMember:
    """One LLM of a unit: what it gets, and how it is expected to do."""

    service: str = spec("Name of the service.")
    served_rps: float = spec("Load it serves of it.", unit="requests/s", gt=0)
    decode_share_frac: float = spec("SMs of its decode.", unit="1", gt=0, le=1)
    kv_quota_tokens: int = spec("KV cache it may fill.", unit="tokens", gt=0)
    max_num_seqs: int = spec("Requests at a time.", unit="requests", ge=1)
    prefill_ms: float = spec("Its prefill step.", unit="ms", ge=0)
    tpot_ms: float = spec("Decode step at the quantile of its SLO.", unit="ms", ge=0)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmUnit:
    """LLMs on one mesh."""

    mesh: MeshKind = spec("Its GPUs.")
    members: tuple[UnitMember, ...] = spec("Its LLMs.")
    phase: Phase = spec("What it does of their requests.", default=Phase.AGGREGATED)
    prefill_share_frac: float = spec(
        "SMs of the prefill in progress; 1: phases take turns.", unit="1", gt=0, le=1
    )
    stretch: float = spec(
        "Slowdown of memory-bound parts by each other.", unit="1", ge=1, default=1.0
    )
    cycle_ms: float | None = spec(
        "Time in which every LLM decodes once; None: they decode side by side.",
        unit="ms",
        gt=0,
        default=None,
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.members:
            raise InputError("members", self.members, "at least one LLM")
        names = [member.service for member in self.members]
        if len(set(names)) < len(names):
            raise InputError("members", names, "each service once")
        if self.phase is Phase.PREFILL and self.cycle_ms is not None:
            form = "null: a prefill-only unit has no decodes to take turns"
            raise InputError("cycle_ms", self.cycle_ms, form)
        shares = self.sm_shares_frac
        if self.cycle_ms is None and sum(shares) > 1.0 + _ROUNDING:
            form = "SM shares (prefill first) that add up to 1 at most"
            raise InputError("members", tuple(round(s, 3) for s in shares), form)

    @property
    def sm_shares_frac(self) -> tuple[float, ...]:
        """Share of the prefills, then of each decode, as far as it has both."""
        decodes = tuple(member.decode_share_frac for member in self.members)
        if self.phase is Phase.AGGREGATED:
            return (self.prefill_share_frac, *decodes)
        return decodes if self.phase is Phase.DECODE else (self.prefill_share_frac,)

    @property
    def is_shared(self) -> bool:
        """Whether several LLMs are on it."""
        return len(self.members) > 1

    @property
    def num_processes(self) -> int:
        """Processes of each LLM: two where its phases run side by side."""
        is_side_by_side = self.phase is Phase.AGGREGATED and self.cycle_ms is None
        return 2 if is_side_by_side else 1

    def describe(self) -> str:
        """E.g. ``2 x a100_sxm: chat 12.0/s (30 % SMs), code 3.0/s (20 % SMs)``."""
        is_whole = self.phase is Phase.AGGREGATED
        has_shares = is_whole or (self.phase is Phase.DECODE and self.is_shared)
        parts = [
            f"{m.service} {m.served_rps:.3g}/s"
            + (
                f" ({m.decode_share_frac:.0%} SMs)"
                if has_shares and not self.cycle_ms
                else ""
            )
            for m in self.members
        ]
        if not is_whole:
            turns = f" in turns of {self.cycle_ms:.3g} ms" if self.cycle_ms else ""
            return f"{self.mesh}: {', '.join(parts)}, {self.phase} only{turns}"
        how = (
            f"in turns of {self.cycle_ms:.3g} ms"
            if self.cycle_ms
            else f"prefill {self.prefill_share_frac:.0%} SMs"
        )
        return f"{self.mesh}: {', '.join(parts)}; {how}"
