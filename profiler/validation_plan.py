"""ValidationPlan: what is served to hold the simulator to it."""

from dataclasses import dataclass

from clusters.fields import InputError, check_fields, spec
from clusters.mapping import nearest
from profiler.engine import EngineLimits
from profiler.serving import ServingPolicy

LOADS = (0.5, 0.85, 0.95)
_ARRIVAL_SHARE = 0.75
"""Of the time of a load; the rest is for the last answers."""
_FEWEST_REQUESTS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationPlan:
    """What is served to hold the simulator to it."""

    limits: EngineLimits = spec("Sizes of the engine.")
    lengths: str = spec("Length preset, INPUTxOUTPUT tokens, or a trace file.")
    policies: tuple[ServingPolicy, ...] = spec(
        "How steps are formed, one after the other.",
        default=(ServingPolicy.PREFILL_FIRST,),
    )
    loads: tuple[float, ...] = spec("Shares of the capacity.", unit="1", default=LOADS)
    num_requests: int | None = spec(
        "Requests a load; None: as many as the time allows.",
        unit="requests",
        default=None,
    )
    max_s: float = spec("Longest run of a load.", unit="s", gt=0)
    ttft_ms: float = spec("Limit of a good request.", unit="ms", gt=0, default=2000.0)
    tpot_ms: float = spec("Limit of a good request.", unit="ms", gt=0, default=30.0)
    seed: int = spec("Seed of arrivals and lengths.", unit="1", ge=0, default=0)

    def __post_init__(self) -> None:
        check_fields(self)

    def num_requests_at(self, rate_rps: float) -> int:
        """Requests of a load: as asked, or those that arrive in most of the time."""
        if self.num_requests is not None:
            return self.num_requests
        return max(_FEWEST_REQUESTS, int(_ARRIVAL_SHARE * self.max_s * rate_rps))


def policies_of(text: str) -> tuple[ServingPolicy, ...]:
    """Policies of ``prefill_first,chunked``.

    Raises
    ------
    InputError
        On a name that is none.
    """
    names = [str(policy) for policy in ServingPolicy]
    found = []
    for word in text.split(","):
        if word.strip() not in names:
            form = f"policies ({nearest(word, names)})"
            raise InputError("--policy", text, form)
        found.append(ServingPolicy(word.strip()))
    return tuple(dict.fromkeys(found))
