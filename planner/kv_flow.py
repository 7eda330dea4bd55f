"""KV flow of a plan, found by `planner.max_kv_flow`: value, routes, what binds."""

from dataclasses import dataclass

from clusters.fields import check_fields, spec
from planner.simulator.system import Phase

_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteShare:
    """What goes over one route at the highest flow."""

    source: str = spec("Prefill replica.")
    target: str = spec("Decode replica.")
    share_frac: float = spec("Of all requests.", unit="1", ge=0, le=1)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """Something in the minimum cut."""

    what: str = spec("Replica, or link by what it joins.")
    gain: float = spec(
        "Requests/s for 1 GB/s more of a link, or for 1 request/s more of a replica.",
        unit="requests/s",
        ge=0,
    )

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class KvFlow:
    """The highest flow through the replicas and links of a plan, and what binds."""

    rate_rps: float = spec("Its value.", unit="requests/s", ge=0)
    prefill_rps: float = spec("Of all prefill replicas.", unit="requests/s", ge=0)
    decode_rps: float = spec("Of all decode replicas.", unit="requests/s", ge=0)
    routes: tuple[RouteShare, ...] = spec("Routes in use, the largest share first.")
    cut_replicas: tuple[Binding, ...] = spec("Replicas in the minimum cut.")
    cut_links: tuple[Binding, ...] = spec("Links in the minimum cut.")

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def tighter(self) -> Phase:
        """The phase that would limit the rate if links carried anything."""
        return Phase.PREFILL if self.prefill_rps < self.decode_rps else Phase.DECODE

    @property
    def stranded_frac(self) -> float:
        """Share of the tighter phase that links keep from serving."""
        most = min(self.prefill_rps, self.decode_rps)
        return max(0.0, 1.0 - self.rate_rps / most) if most > 0 else 0.0

    def describe(self) -> str:
        """E.g. ``16 % of decode capacity is stranded behind rack2 -> spine``."""
        if self.cut_links and self.stranded_frac > _ROUNDING:
            behind = ", ".join(each.what for each in self.cut_links)
            return (
                f"{self.stranded_frac:.0%} of {self.tighter} capacity is stranded "
                f"behind {behind}"
            )
        return (
            f"links carry all that replicas serve; {self.tighter} binds "
            f"({self.prefill_rps:.2f} prefill, {self.decode_rps:.2f} decode requests/s)"
        )
